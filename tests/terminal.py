"""A program at a terminal of its own, for tests: types at it and reads what it shows, with deadlines."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>])")

# In a session of its own, with that terminal to control it: so that Ctrl-C is a signal. A token takes a while.
_CHILD = """
import fcntl, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from graphllm.runtime.engine import Engine
step = Engine.step
def slowly(*a, **k):
    time.sleep(float(sys.argv[1]))
    return step(*a, **k)
Engine.step = slowly
from graphllm.cli import main
sys.exit(main(sys.argv[2:]))
"""


class Terminal:
    """A ``graphllm`` command at a terminal; ``seconds`` is what each token takes at least."""

    def __init__(
        self,
        words: list[str],
        folder: Path,
        environment: Mapping[str, str],
        seconds: float = 0.0,
        size: tuple[int, int] = (24, 100),
    ) -> None:
        import pty

        self._fd, theirs = pty.openpty()
        self.resize(*size)
        command = [sys.executable, "-c", _CHILD, str(seconds), *words]
        streams: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self._child = subprocess.Popen(command, cwd=folder, env=dict(environment), start_new_session=True, **streams)
        os.close(theirs)
        self.shown = ""  # all of it, without what only moves or colours
        self.raw = b""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._fd)

    def resize(self, rows: int, columns: int) -> None:
        import termios

        termios.tcsetwinsize(self._fd, (rows, columns))

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait(self, text: str, seconds: float = 120.0) -> str:
        """What was shown since the last wait up to ``text``, which has to come."""
        end = time.monotonic() + seconds
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._read(end), f"{text!r} did not come; there is {self.shown[self._seen :]!r}"
        before, self._seen = self.shown[self._seen : at], at + len(text)
        return before

    def code(self, seconds: float = 120.0) -> int:
        """The exit code, once it has ended."""
        end = time.monotonic() + seconds
        while self._read(end):
            pass
        return self._child.wait(seconds)

    def _read(self, end: float) -> bool:
        if not select.select([self._fd], [], [], max(0.0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.raw += data
        self.shown = _ESCAPES.sub("", self.raw.decode("utf-8", "replace")).replace("\r", "")
        return bool(data)
