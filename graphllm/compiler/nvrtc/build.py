"""Kernels become machine code: each distinct one once, side by side in several processes, and never twice.

NVRTC compiles one text at a time however many threads ask it, so other processes (``worker``) take their share.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Final

import graphllm.codegen.kernels as kernels
from graphllm.compiler.nvrtc.crew import Crew
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.compiler.nvrtc.kept import cubin_folder, find, keep, key_of
from graphllm.compiler.nvrtc.library import Rejected, compile_text, nvrtc_version
from graphllm.errors import GraphLLMError, NativeError
from graphllm.plan.launch import Kernel

HEADERS: Final = Path(kernels.__file__).parent / "cuda"
OPTIONS: Final = ("-std=c++17", "--ptxas-options=-v", "-lineinfo")
_WORTH_A_PROCESS: Final = 4  # kernels: to start one takes as long as to compile two
_SHOWN: Final = 300  # characters of what the compiler says

Say = Callable[[str], None]


def built(
    wanted: Iterable[Kernel], archs: Sequence[str], say: Say = lambda line: None, processes: int = 0
) -> dict[tuple[str, str], Cubin]:
    """Machine code by kernel and architecture, compiled where it is not kept.

    Args:
        say: is told in one line when something is compiled.
        processes: at most how many compile; 0 is as many as there are processors.

    Raises:
        NativeError: NVRTC is not there or fails, or rejects a kernel: its name, the line, and what it computes.
        GraphLLMError: the cache folder cannot be used.
    """
    folder, version = cubin_folder(), nvrtc_version()
    out: dict[tuple[str, str], Cubin] = {}
    missing: list[tuple[Kernel, str]] = []
    for kernel in wanted:
        for arch in archs:
            cubin = find(folder, _key(kernel, arch, version), kernel.name, arch)
            if cubin is None:
                missing.append((kernel, arch))
            else:
                out[kernel.name, arch] = cubin
    if missing:
        say(f"compiling {len(missing)} kernels for {', '.join(archs)}, once")
        missing.sort(key=lambda job: -_length(job[0]))  # the long ones first, so that all end together
        most = processes or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

        def done(kernel: Kernel, cubin: Cubin) -> None:
            keep(folder, _key(kernel, cubin.arch, version), cubin)
            out[kernel.name, cubin.arch] = cubin

        _compile_all(missing, min(most, -(-len(missing) // _WORTH_A_PROCESS)), done)
    return out


def compiled(kernel: Kernel, arch: str) -> Cubin:
    """Machine code of one kernel, compiled here and now. Raises NativeError like ``built``."""
    made = compile_text(kernel.text, f"{kernel.name}.cu", headers(), _options(arch))
    if isinstance(made, Rejected):
        raise NativeError(_explained(kernel, arch, made.log))
    code, log = made
    # the time it took differs from run to run, and what is kept must not
    return Cubin(kernel.name, arch, code, "\n".join(x for x in log.splitlines() if "Compile time" not in x))


@lru_cache(maxsize=1)
def headers() -> Mapping[str, str]:
    """What a kernel may include, by name; the simulator's own are not there."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(HEADERS.glob("*.cuh"))}


def _compile_all(jobs: Sequence[tuple[Kernel, str]], processes: int, done: Callable[[Kernel, Cubin], None]) -> None:
    """This process takes jobs from the list as the others do. The first failure is raised when all have stopped."""
    queue: SimpleQueue[tuple[Kernel, str]] = SimpleQueue()
    for job in jobs:
        queue.put(job)
    failed: list[GraphLLMError] = []

    def work(compile_one: Callable[[Kernel, str], Cubin | None]) -> None:
        while not failed:
            try:
                kernel, arch = queue.get_nowait()
            except Empty:
                return
            try:
                done(kernel, compile_one(kernel, arch) or compiled(kernel, arch))
            except GraphLLMError as error:
                failed.append(error)

    with Crew(processes - 1) as crew:
        threads = [Thread(target=work, args=(member.build,), daemon=True) for member in crew.members]
        for thread in threads:
            thread.start()
        work(compiled)
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]


def _length(kernel: Kernel) -> int:
    """Characters of its text and of the templates that it calls, by which it is guessed how long it takes."""
    called = re.match(r'#include "(.+)"', kernel.text)
    return len(kernel.text) + len(headers().get(called[1], "") if called else "")


def _options(arch: str) -> tuple[str, ...]:
    return (*OPTIONS, f"--gpu-architecture={arch}")


def _key(kernel: Kernel, arch: str, version: str) -> str:
    includes = (part for item in headers().items() for part in item)
    return key_of((kernel.name, kernel.text, *_options(arch), version, *includes))


def _explained(kernel: Kernel, arch: str, log: str) -> str:
    """One line: kernel, line of its text, what the compiler says of it, and the operation it was printed from."""
    error = next((line for line in log.splitlines() if "error" in line), log.strip().splitlines()[0] if log else "")
    at = re.match(r"(?P<file>[^()]+)\((?P<line>\d+)\): *(?:catastrophic )?error: *(?P<what>.*)", error)
    op = next((line.strip() for line in kernel.ir.splitlines() if line.strip()), "")
    where = f"kernel {kernel.name} for {arch}"
    if at is None:
        return f"{where}: {error.strip()[:_SHOWN]}; it computes {op[:_SHOWN]}"
    lines, number = kernel.text.splitlines(), int(at["line"])
    own = at["file"] == f"{kernel.name}.cu"
    text = f" ({lines[number - 1].strip()[:80]})" if own and number <= len(lines) else ""
    place = f"line {number}" if own else f"{at['file']} line {number}"
    return f"{where}: {place}{text}: {at['what'].strip()[:_SHOWN]}; it computes {op[:_SHOWN]}"
