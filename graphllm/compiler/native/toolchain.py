"""The machine's C++ compiler: which one, what it says it is, and how it is run so that it cannot hang us."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final

from graphllm.errors import NativeError

NAMES: Final = ("c++", "g++", "clang++")
HOW_TO_GET_ONE: Final = "install g++ or clang++, or run `pip install ziglang`, or point CXX at one"
VERSION_LIMIT: Final = 20.0  # seconds; the first run of some compilers unpacks them
_SHOWN: Final = 200  # characters of what a compiler says


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler that answered.

    Attributes:
        command: what runs it, before flags.
        version: the first line it says of itself.
        identity: its file, with size and time of change: another compiler under the same name is another one.
    """

    command: tuple[str, ...]
    version: str
    identity: str

    @property
    def name(self) -> str:
        """What people call it."""
        return "zig c++" if self.command[1:] == ("c++",) else Path(self.command[0]).name


def find_compiler() -> Compiler:
    """$CXX, else c++, g++ or clang++ on the path, else the one in the ``ziglang`` wheel.

    Raises:
        NativeError: there is none, or the one that was found does not answer.
    """
    command = compiler_command()
    if command is None:
        raise NativeError(f"C++ compiler: none found; {HOW_TO_GET_ONE}")
    path = Path(shutil.which(command[0]) or command[0])
    try:
        status = path.resolve().stat()
    except OSError:
        raise NativeError(f"C++ compiler {command[0]}: no such program; {HOW_TO_GET_ONE}") from None
    return _asked(command, f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")


def compiler_command() -> tuple[str, ...] | None:
    """What would be run, without asking whether it works; None where there is nothing to run."""
    chosen = os.environ.get("CXX", "").strip()
    if chosen:
        try:
            return tuple(shlex.split(chosen))
        except ValueError:
            raise NativeError(f"C++ compiler: CXX={chosen!r:.60}; expected a command") from None
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return (path,)
    wheel = find_spec("ziglang")
    if wheel is not None and wheel.submodule_search_locations:
        zig = Path(wheel.submodule_search_locations[0]) / "zig"
        if zig.is_file():
            return (str(zig), "c++")
    return None


@lru_cache(maxsize=4)
def _asked(command: tuple[str, ...], identity: str) -> Compiler:
    said = run_compiler(command, ["--version"], VERSION_LIMIT, "--version")
    return Compiler(command, said.splitlines()[0].strip() if said.strip() else "unknown", identity)


def run_compiler(command: Sequence[str], arguments: Sequence[str], limit: float, what: str) -> str:
    """What the compiler prints. It and all that it starts are ended after ``limit`` seconds, or when we are.

    Raises:
        NativeError: it cannot be started, fails, or takes too long.
    """
    return run_compilers(command, [arguments], limit, what)[0]


def run_compilers(command: Sequence[str], calls: Sequence[Sequence[str]], limit: float, what: str) -> list[str]:
    """The same for several calls side by side: where one fails, the others are ended."""
    name = f"C++ compiler {Path(command[0]).name}"
    end = time.monotonic() + limit
    with ExitStack() as stack:
        # files, for a pipe would keep us waiting for whoever inherited it
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in calls]
        started: list[subprocess.Popen[bytes]] = []
        for arguments, output in zip(calls, outputs, strict=True):
            started.append(_started([*command, *arguments], output, name))
            stack.callback(_end, started[-1])
        said: list[str] = []
        for process, output in zip(started, outputs, strict=True):
            try:
                status = process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise NativeError(f"{name}: {what}: no end after {limit:.0f} s; it was stopped") from None
            output.seek(0)
            said.append(output.read(1 << 16).decode(errors="replace"))
            if status:
                raise NativeError(f"{name}: {what}: failed, exit status {status}; {_first_error(said[-1])}")
    return said


def _started(command: Sequence[str], output: IO[bytes], name: str) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
        )
    except OSError as error:
        raise NativeError(f"{name}: cannot be run; {error.strerror}; {HOW_TO_GET_ONE}") from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, unless it has ended, and all that it has started, which are a session of their own."""
    if process.poll() is None:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _first_error(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")
    return line[:_SHOWN]
