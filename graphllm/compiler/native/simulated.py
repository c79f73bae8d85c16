"""CUDA kernels as a library for this CPU, which runs them as a GPU would (``runtime/cuda/simulator.py``).

The kernels' own text is compiled as C++ with ``sim/machine.h`` for a machine, some kernels to a translation unit, and
linked with the simulator, which is compiled once. Time to compile matters more than speed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import graphllm.codegen.kernels as kernels_package
from graphllm.compiler.kept import LIBRARY, OBJECT, kept
from graphllm.compiler.native.build import compile_to, identity, texts_of
from graphllm.compiler.native.isa import chosen_isa, isa_flags
from graphllm.compiler.native.toolchain import Compiler, find_compiler
from graphllm.plan.launch import Kernel

HEADERS: Final = Path(kernels_package.__file__).parent / "cuda"
FLAGS: Final = (
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-pthread", "-fno-exceptions", "-fno-rtti", "-fvisibility=hidden"),
    *("-ffp-contract=off", "-fno-math-errno", "-DGRAPHLLM_SIM"),
)
# Every access to memory calls the simulator, which stands in for the runtime of that sanitizer.
WATCHED: Final = ("-fsanitize=thread", "-DGRAPHLLM_SIM_WATCH")
_TOGETHER: Final = 6  # kernels that are worth a compiler of their own
_INCLUDE: Final = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)".*$', re.MULTILINE)

Say = Callable[[str], None]


def simulated(
    kernels: Sequence[Kernel],
    arch: str,
    say: Say = lambda line: None,
    *,
    watch: bool = True,
    brief: bool = False,
    extra: Sequence[str] = (),
) -> Path:
    """The library of these kernels, built if it is not there.

    Args:
        arch: of the GPU whose intrinsics they use: sm_90.
        say: is told in one line when something is built.
        watch: every access to memory is looked at; without, it is several times as fast.
        brief: kernels that will run a few times only: they are built in half the time, and run at half the speed.
        extra: more flags of the compiler.

    Raises:
        NativeError: no compiler, or one that fails or hangs.
        GraphLLMError: the cache folder cannot be used.
    """
    compiler = find_compiler()
    number = int(re.sub(r"\D", "", arch)) * 10
    flags = (*FLAGS, *isa_flags(chosen_isa()), f"-DGRAPHLLM_ARCH={number}", *extra)
    units = _units(kernels)

    def make(scratch: Path) -> Path:
        say(f"building {len(kernels)} kernels for the simulator with {compiler.name}, once")
        watched = (*flags, *(WATCHED if watch else ()), *(("-O0",) if brief else ()))
        jobs = [(scratch / f"{i}.cpp", text) for i, text in enumerate(units)]

        def unit(job: tuple[Path, str]) -> Path:
            source, text = job
            source.write_text(text, encoding="utf-8")
            out = source.with_suffix(OBJECT)
            arguments = [*watched, "-I", str(HEADERS), "-c", str(source)]
            compile_to(out, compiler, arguments, "building kernels for the simulator")
            return out

        with ThreadPoolExecutor(len(jobs) + 1) as pool:
            machine = pool.submit(_machine, compiler, flags, watch)
            objects = [*pool.map(unit, jobs), machine.result()]
        out = scratch / "kernels.so"
        compile_to(out, compiler, [*flags, "-shared", *map(str, objects)], "linking kernels for the simulator")
        return out

    parts = [*units, str(watch), str(brief), *identity(compiler, flags), *_headers()]
    return kept(parts, LIBRARY, make)


def _machine(compiler: Compiler, flags: Sequence[str], watch: bool) -> Path:
    """The simulator itself, as an object."""
    flags = (*flags, "-O2", *(WATCHED[1:] if watch else ()))

    def make(scratch: Path) -> Path:
        out = scratch / "simulator.o"
        source = HEADERS / "sim" / "simulator.cpp"
        compile_to(out, compiler, [*flags, "-c", str(source)], "building the simulator")
        return out

    return kept([*identity(compiler, flags), *_headers()], OBJECT, make)


def _headers() -> list[str]:
    sim = HEADERS / "sim"
    return texts_of((*HEADERS.glob("*.cuh"), *sim.glob("*.h"), *sim.glob("*.cpp")))


def _units(kernels: Sequence[Kernel]) -> list[str]:
    """Translation units of about the same length, as many as there are processors at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(cores, len(kernels) // _TOGETHER))
    units: list[list[Kernel]] = [[] for _ in range(count)]
    for kernel in sorted(kernels, key=lambda k: (-len(k.text), k.name)):
        min(units, key=lambda unit: sum(len(k.text) for k in unit)).append(kernel)
    return [_unit(unit) for unit in units]


def _unit(kernels: Sequence[Kernel]) -> str:
    """Kernels with what each calls its own in a namespace of its own; headers are read once, outside of all of them."""
    includes = dict.fromkeys(name for kernel in kernels for name in _INCLUDE.findall(kernel.text))
    lines = ['#include "prelude.cuh"', *(f'#include "{name}"' for name in includes), '#include "sim/kernels.h"']
    for i, kernel in enumerate(kernels):
        body = _INCLUDE.sub("", kernel.text)
        lines += [f"namespace kernel_{i} {{", f'#line 1 "{kernel.name}"', body.rstrip(), "}"]
    lines += ['#line 1 "kernels"', "namespace graphllm::sim {"]
    for i, kernel in enumerate(kernels):
        entry = f"Called<::kernel_{i}::{kernel.name}>"
        lines.append(f'static const Registered kernel_{i}("{kernel.name}", {entry}::entry, {entry}::parameters);')
    return "\n".join([*lines, "}", ""])
