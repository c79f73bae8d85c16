"""The process around a command: standard streams that are closed, full or cannot spell a character, and being stopped.

Whatever the shell hands us, a command ends in words or in silence, never in a traceback, and its temporary files go
with it.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, cast


def open_streams() -> None:
    """Make the three standard streams usable.

    One that is closed becomes the null device: else the next file to be opened would take its number, and receive what
    libraries print. What an encoding has no character for is printed as ``?``.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  open as long as the process
    out: Any = sys.stdout
    if out is not sys.__stdout__:
        return  # a program that calls us has its own
    if isinstance(out.buffer, io.RawIOBase):
        # PYTHONUNBUFFERED: Python drops, in silence, what the system does not take of a text at once.
        sys.stdout = out = io.TextIOWrapper(io.BufferedWriter(cast(Any, out.buffer)), out.encoding, out.errors)
    if out.errors in ("strict", "surrogateescape"):  # the second in the C locale; neither was asked for
        out.reconfigure(errors="replace")


def discard_output() -> None:
    """Let what is still to be written to standard output go nowhere; a second complaint at exit would be noise."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unwind_on_signals() -> None:
    """Let a request to end, or a terminal that was closed, unwind the program as Ctrl-C does: files are cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
