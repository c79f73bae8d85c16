"""Kernels on the simulator, for tests: compiled together, launched on arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.compiler.native.simulated import simulated
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.plan.launch import Kernel
from graphllm.runtime.cuda.driver import Address, Reach, Resolved
from graphllm.runtime.cuda.simulator import Simulator

Array = NDArray[Any]
SANITIZER = os.environ.get("GRAPHLLM_TEST_SANITIZER", "").split()  # set by a test of its own
SEEDS = (0, 1, 2, 3, 4, 5, 6)


def needs_compiler() -> None:
    if compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")


@lru_cache
def library(kernels: tuple[Kernel, ...], arch: str = "sm_90", watch: bool = True) -> Path:
    """The kernels' library; with a compiler's own sanitizer, where one is asked for, in place of ours."""
    needs_compiler()
    return simulated(kernels, arch, watch=watch and not SANITIZER, extra=SANITIZER)


@dataclass(frozen=True)
class Work:
    """A launch on arrays by name; ``told`` gives, for some of them, what the launch says it touches."""

    kernel: str
    arguments: Sequence[str]
    grid: tuple[int, int] = (1, 1)
    block: int = 32
    shared: int = 0
    written: Sequence[str] | None = None
    short: Mapping[str, int] = field(default_factory=dict[str, int])  # bytes that it says it touches, of some


def run(
    path: Path, works: Sequence[Work], arrays: Mapping[str, Array], arch: str = "sm_90", **choices: Any
) -> dict[str, Array]:
    """All arrays after the launches."""
    driver = Simulator(path, arch, **choices)
    try:
        held = {name: np.ascontiguousarray(a).view(np.uint8).reshape(-1).copy() for name, a in arrays.items()}
        at: dict[str, Address] = {}
        for name, data in held.items():
            at[name] = driver.allocate(data.size)
            driver.upload(at[name], data)

        def resolved(work: Work) -> Resolved:
            reach: list[Reach] = []
            if work.written is not None:
                for name in work.arguments:
                    reach.append(Reach(at[name], work.short.get(name, held[name].size), name in work.written))
            arguments = tuple(at[name] for name in work.arguments)
            return Resolved(work.kernel, work.grid, work.block, work.shared, arguments, tuple(reach))

        driver.run(driver.graph([resolved(w) for w in works]))
        for name, data in held.items():
            driver.download(at[name], data)
        driver.wait(driver.mark())
        return {name: held[name].view(a.dtype).reshape(a.shape) for name, a in arrays.items()}
    finally:
        driver.close()


def kernel(name: str, parameters: str, body: str) -> Kernel:
    head = '#include "prelude.cuh"\nusing namespace graphllm;\nextern "C" __global__ void '
    return Kernel(name, f"{head}{name}({parameters}) {{\n    wait_for_producers();\n{body}\n}}\n", "")


def line_of(kernel: Kernel, text: str) -> int:
    """The line of a kernel's text that holds ``text``."""
    lines = kernel.text.splitlines()
    found = [i for i, line in enumerate(lines, 1) if text in line]
    assert len(found) == 1, found
    return found[0]
