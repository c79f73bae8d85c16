"""Which instructions native code may use: all that this CPU has, or fewer, for tests and for other machines."""

from __future__ import annotations

import os
import platform
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, cast, get_args

from graphllm.errors import NativeError

Isa = Literal["native", "avx2", "portable", "portable-native"]
_PORTABLE: Final = "-DGRAPHLLM_PORTABLE"
_CPUINFO: Final = Path("/proc/cpuinfo")


def chosen_isa() -> Isa:
    """$GRAPHLLM_ISA, else native. Raises NativeError for another word."""
    word = os.environ.get("GRAPHLLM_ISA") or "native"
    if word not in get_args(Isa):
        raise NativeError(f"GRAPHLLM_ISA={word!r:.40}; expected {', '.join(get_args(Isa))}")
    return cast(Isa, word)


def isa_flags(isa: Isa) -> tuple[str, ...]:
    """Compiler flags. ``portable`` is plain C++ that any compiler vectorises, for what every such CPU has, and
    ``portable-native`` the same for all that this one has."""
    if isa == "portable":
        return (_PORTABLE,)
    if isa == "portable-native":
        return (_PORTABLE, *isa_flags("native"))
    if isa == "avx2":
        return ("-march=x86-64-v3",)
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64", "i686"):
        return ("-march=native",)
    return ("-mcpu=native",) if machine in ("aarch64", "arm64") else ()


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """What tells this CPU from one that lacks some of its instructions; part of every key of the cache."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU part")
    found = [line for name in wanted for line in lines if line.startswith(name)]
    return "\n".join([platform.machine(), platform.processor(), *sorted(set(found))])
