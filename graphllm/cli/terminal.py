"""What people see while they wait: a progress line on stderr, only where there is a terminal and only for long work."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from graphllm.errors import GraphLLMError, ParseError, VerifyError

_PATIENCE = 0.5  # seconds before a progress line is worth showing


class Meter:
    """A context manager that is called with (what, done, total)."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._started = time.monotonic()
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Meter:
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._shown or time.monotonic() - self._started < _PATIENCE:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.update(self._tasks[what], completed=done, total=total)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def say(line: str) -> None:
    """One line for the person, not for the pipe. Where it cannot be printed there is nobody to tell."""
    with suppress(OSError):
        print(f"graphllm: {_visible(line)}", file=sys.stderr)


def complain(error: GraphLLMError) -> None:
    """An error in one line; text IR is shown below it, with a mark where it is wrong."""
    first, *place = str(error).splitlines() if isinstance(error, ParseError | VerifyError) else [str(error)]
    say(first)
    with suppress(OSError):
        for line in place:
            print(_visible(line), file=sys.stderr)


# What drives a terminal, but for the end of a line and a tab.
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if code not in (9, 10)} | {13: ""}


def harmless(text: str) -> str:
    """What a model says, for a terminal: it may say anything, but not move the cursor or rename the window."""
    return text.translate(_CONTROLS)


def _visible(line: str) -> str:
    """Names of files may hold anything: what would break the line, or drive the terminal, is shown as its escape."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
