"""Generated code of another machine, run under an emulator: a device whose steps are processes.

The memory of a device lies in one file, which both sides map. What a step costs is the start of an emulator, so tests
run few of them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.order import weight_names
from graphllm.compiler.native import build
from graphllm.ir.core import Module

Array = NDArray[Any]
COMPILER: Final = "aarch64-linux-gnu-g++"
EMULATOR: Final = next((n for n in ("qemu-aarch64", "qemu-aarch64-static") if shutil.which(n)), "qemu-aarch64")
DRIVER: Final = Path(__file__).with_name("emulated_driver.cpp")
MOST: Final = 4096  # rows of a step


def missing() -> str:
    """What this machine lacks, in words; '' where it lacks nothing."""
    absent = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else ""


class EmulatedDevice:
    """A module as code for AArch64, ``march`` in the compiler's words; ``arena`` and ``states`` are its memory."""

    def __init__(
        self, module: Module, weights: Mapping[str, Array], folder: Path, march: str, *, threads: int = 1
    ) -> None:
        self.threads = threads
        self._functions = list(module.functions)
        self._emulator = [EMULATOR, "-cpu", "max"]
        self._program = folder / "program"
        source = folder / "plan.cpp"
        source.write_text(generate(module), encoding="utf-8")
        flags = ["-O1" if f == "-O3" else f for f in build.FLAGS if f not in ("-shared", "-fPIC")]
        command = [COMPILER, *flags, "-static", f"-march={march}", "-w", "-I", str(build.HEADERS)]
        subprocess.run([*command, str(source), str(DRIVER), "-o", str(self._program)], check=True, timeout=600)

        names = weight_names(module)
        sizes = [weights[n].nbytes for n in names] + [s.type.bytes for s in module.states.values()]
        sizes += [max(f.arena or 0 for f in module.functions.values()), *[4 * MOST] * 4]
        self._offsets = [int(o) for o in np.cumsum([0] + [-(-size // 64) * 64 + 64 for size in sizes])]
        self._file = folder / "memory"
        memory = np.memmap(self._file, np.uint8, "w+", shape=(self._offsets.pop(),))
        places = [memory[o : o + size] for o, size in zip(self._offsets, sizes, strict=True)]
        for name, place in zip(names, places, strict=False):
            place[...] = weights[name].reshape(-1).view(np.uint8)
        self._counts = len(names), len(module.states)
        after = places[len(names) :]
        self.states: Mapping[str, Array] = {
            s.name: place.view(s.type.numpy).reshape(s.type.shape)
            for s, place in zip(module.states.values(), after, strict=False)
        }
        self.arena: NDArray[np.uint8] = after[len(module.states)]
        self._inputs = [place.view(np.int32) for place in after[len(module.states) + 1 :]]

    def step(self, function: str, inputs: Mapping[str, Sequence[int]]) -> None:
        """One step; numbers and names as `CpuDevice.step` takes them."""
        for name, place in zip(("ids", "pos", "slot", "rows"), self._inputs, strict=True):
            given = inputs.get(name, ())
            place[: len(given)] = given
        numbers = [*self._counts, self.threads, self._functions.index(function), len(inputs["pos"]), *self._offsets]
        command = [*self._emulator, str(self._program), str(self._file), *map(str, numbers)]
        subprocess.run(command, check=True, timeout=300)
