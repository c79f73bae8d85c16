"""What the target cpu needs: a compiler that works, and what the processor gives it."""

from __future__ import annotations

import re
from typing import Final

from graphllm.compiler.native.isa import chosen_isa, cpu_features, isa_flags
from graphllm.compiler.native.toolchain import find_compiler
from graphllm.errors import GraphLLMError, NativeError
from graphllm.measure.bandwidth import read_bandwidth
from graphllm.measure.doctor.finding import Finding
from graphllm.runtime.cores import physical_cores
from graphllm.view.units import bytes_text

# What our kernels have code for, under the names that Linux gives them.
_WANTED: Final = (
    *("avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16"),
    *("asimd", "asimddp", "bf16"),
)


def cpu_backend() -> list[Finding]:
    """Compiler, flags, instructions, threads, and whether it all works: a small program is built and run."""
    out = [_compiler()]
    try:
        isa = chosen_isa()
        out.append(Finding("flags", f"{' '.join(isa_flags(isa)) or 'none'} ({isa})"))
    except NativeError as error:
        out.append(Finding("flags", str(error), "broken", "unset GRAPHLLM_ISA"))
        return out
    words = set(re.split(r"[\s:]+", cpu_features()))
    have = [name for name in _WANTED if name in words]
    out.append(Finding("instructions", ", ".join(have) or "none that our kernels have code of their own for"))
    out.append(Finding("threads", f"{physical_cores()}, one a physical core; --threads changes it"))
    rate = read_bandwidth()
    speed = f"{bytes_text(int(rate.bytes_per_second))}/s with {rate.threads} threads"
    if rate.how == "native":
        out.append(Finding("native code", "builds and runs"))
    elif out[0].state == "ok":
        out.append(_failure())
    out.append(Finding("memory read", f"{speed} ({rate.how}): the ceiling of a decoder"))
    return out


def _compiler() -> Finding:
    try:
        found = find_compiler()
        return Finding("C++ compiler", f"{found.name}: {found.version}")
    except NativeError as error:
        state = "absent" if "none found" in str(error) else "broken"
        fix = "pip install ziglang" if state == "absent" else "unset CXX"
        return Finding("C++ compiler", str(error).removeprefix("C++ compiler: "), state, fix)


def _failure() -> Finding:
    """Why the compiler that is there builds nothing that runs."""
    from graphllm.measure.bandwidth import reader_library

    try:
        return Finding("native code", f"{reader_library().name} builds and does not run", "broken")
    except GraphLLMError as error:
        fix = "pip install ziglang && export CXX='python -m ziglang c++'"
        return Finding("native code", str(error), "broken", fix)
