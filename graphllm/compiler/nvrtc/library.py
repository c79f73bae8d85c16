"""NVRTC, NVIDIA's run-time compiler: found, asked for its version, made to compile. It needs no GPU and no driver."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, cast

from graphllm.errors import NativeError

if TYPE_CHECKING:
    from collections.abc import Mapping

HOW_TO_GET_IT: Final = 'run `pip install "graphllm[cuda]"`'
OLDEST: Final = (12, 9)  # the first that knows all our architectures


@dataclass(frozen=True, slots=True)
class Rejected:
    """What NVRTC said when it did not compile a text."""

    log: str


def nvrtc_missing() -> str:
    """Why NVRTC cannot be used, in one line; '' where it can."""
    try:
        nvrtc_version()
    except NativeError as error:
        return str(error)
    return ""


@lru_cache(maxsize=1)
def nvrtc_version() -> str:
    """Version and size of the library that would compile: another one makes other code.

    Raises:
        NativeError: there is none, or one too old.
    """
    nvrtc = _bindings()
    try:
        status, major, minor = nvrtc.nvrtcVersion()
        found = _file()
    except Exception as error:  # the loader has a class of its own for each way to fail
        reason = " ".join(str(error).split())[:200]
        raise NativeError(f"NVRTC: its library cannot be loaded; {reason}; {HOW_TO_GET_IT}") from None
    if int(status) != 0:
        raise NativeError(f"NVRTC: does not tell its version; {_name(nvrtc, status)}; {HOW_TO_GET_IT}")
    if (major, minor) < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise NativeError(f"NVRTC: expected version {least} or later, got {major}.{minor}; {HOW_TO_GET_IT}")
    return f"{major}.{minor} {found}".strip()


def compile_text(
    text: str, name: str, headers: Mapping[str, str], options: tuple[str, ...]
) -> tuple[bytes, str] | Rejected:
    """(cubin, log) of a translation unit called ``name``, or what is wrong with it.

    Args:
        headers: what it may include, by name.

    Raises:
        NativeError: NVRTC is not there, or fails otherwise than by rejecting the text.
    """
    nvrtc = _bindings()
    bodies, names = [t.encode() for t in headers.values()], [n.encode() for n in headers]
    program = _checked(nvrtc, nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), len(names), bodies, names))
    try:
        given = [option.encode() for option in options]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(given), given)
        log = _text(nvrtc, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program).decode(errors="replace")
        if int(status) == int(nvrtc.nvrtcResult.NVRTC_ERROR_COMPILATION):
            return Rejected(log)
        if int(status) != 0:
            raise NativeError(f"NVRTC: compiling {name} failed; {_name(nvrtc, status)}; {' '.join(log.split())[:200]}")
        return _text(nvrtc, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program, exact=True), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _bindings() -> Any:
    """The module ``cuda.bindings.nvrtc``, which has no types. Raises NativeError where it is not installed."""
    try:
        from cuda.bindings import nvrtc  # pyright: ignore
    except ImportError:
        raise NativeError(f"NVRTC: not installed; {HOW_TO_GET_IT}") from None
    return cast(Any, nvrtc)


def _file() -> str:
    """The size of the library's file: minor releases share a version."""
    from cuda.pathfinder import load_nvidia_dynamic_lib  # pyright: ignore

    path: Any = cast(Any, load_nvidia_dynamic_lib)("nvrtc").abs_path
    return str(os.stat(path).st_size) if path else ""


def _text(nvrtc: Any, size: Any, read: Any, program: Any, exact: bool = False) -> bytes:
    content = bytearray(_checked(nvrtc, size(program)))
    _checked(nvrtc, read(program, content))
    return bytes(content) if exact else bytes(content).rstrip(b"\0")


def _checked(nvrtc: Any, returned: tuple[Any, ...]) -> Any:
    status, *values = returned
    if int(status) != 0:
        raise NativeError(f"NVRTC: failed; {_name(nvrtc, status)}")
    return values[0] if values else None


def _name(nvrtc: Any, status: Any) -> str:
    failed, name = nvrtc.nvrtcGetErrorString(status)
    return str(status) if int(failed) != 0 else str(name.decode())
