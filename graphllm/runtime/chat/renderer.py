"""Renders templates in a process of their own (`sandbox`), one for this program, started when it is first needed.

Whatever a template does, a call comes back within ``SECONDS`` with a text or a TemplateError. The process is ended when
it takes longer, and the next call starts another.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from threading import Event, Lock, Timer
from typing import Any

from graphllm.errors import RunError, TemplateError
from graphllm.runtime.chat.sandbox import READY

SECONDS = 5.0  # published templates take milliseconds
CHARACTERS = 16 << 20  # of a request and of a rendered dialogue

_START_SECONDS = 60.0  # Python and Jinja, on a busy machine

# Isolated from the environment and the current folder, but with the packages that this program has.
_START = "import sys; sys.path[:] = sys.argv[1:]; from graphllm.runtime.chat.sandbox import main; main()"


def render(source: str, variables: Mapping[str, Any], *, now: float | None = None, seconds: float = SECONDS) -> str:
    """The text that a Jinja template makes of ``variables``, which are JSON values.

    Args:
        source: the template.
        variables: messages, tools, special tokens …
        now: seconds since 1970, for templates that write the date; None = the clock.
        seconds: how long it may take.

    Raises:
        TemplateError: it is not Jinja, refuses the variables, fails, does not come to an end, or writes without end.
        RunError: the variables are not JSON values, or too many.
    """
    request = {
        "template": source,
        "variables": dict(variables),
        "now": time.time() if now is None else now,
        "seconds": seconds,
        "characters": CHARACTERS,
    }
    try:
        line = json.dumps(request, ensure_ascii=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"messages: expected valid Unicode and JSON values; {_one_line(error)}") from None
    if len(line) > CHARACTERS:
        raise RunError(f"messages: {len(line)} bytes with the template; expected at most {CHARACTERS}")
    reply = _process.ask(line, seconds)
    if isinstance(text := reply.get("text"), str):
        return text
    if "raised" in reply:
        raise TemplateError(f"chat template: refuses this dialogue; {_one_line(reply['raised'])}")
    raise TemplateError(f"chat template: {_one_line(reply.get('error', 'failed'))}")


class _Process:
    """The child; a lock, because its pipes carry one question at a time."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = Lock()

    def ask(self, line: bytes, seconds: float) -> dict[str, Any]:
        with self._lock:
            try:
                if self._child is None or self._owner != os.getpid() or self._child.poll() is not None:
                    self._start()
                answer, late = self._exchange(line, seconds)
            except BaseException:  # Ctrl-C: what it would say next answers a question nobody asks
                self.close()
                raise
            if answer.endswith(b"\n"):
                return json.loads(answer)
            self.close()
            if late:
                raise TemplateError(f"chat template: did not come to an end in {seconds:g} s and was stopped")
            raise TemplateError("chat template: ended the process that rendered it; it takes too much memory or time")

    def _start(self) -> None:
        self._owner = os.getpid()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, *filter(None, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in the terminal is for us, not for it
            )
        except OSError as error:
            raise RunError(f"chat template: no process to render it in; {error.strerror}") from None
        if self._exchange(b"", _START_SECONDS)[0] != READY:
            raise RunError("chat template: the process to render it in did not start; is jinja2 installed?")

    def _exchange(self, line: bytes, seconds: float) -> tuple[bytes, bool]:
        """The line that answers ``line``, less than a line when the process has ended; and whether we ended it."""
        child = self._child
        assert child is not None
        into, out = child.stdin, child.stdout
        assert into is not None
        assert out is not None
        ended = Event()

        def end() -> None:
            ended.set()
            child.kill()

        timer = Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            into.write(line)
            into.flush()
            return out.readline(), ended.is_set()
        except OSError:
            return b"", ended.is_set()
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the child, if it is ours: after a fork it is the parent's."""
        child, self._child = self._child, None
        if child is None or self._owner != os.getpid():
            return
        child.kill()
        with suppress(OSError):
            child.wait(5)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def _one_line(text: object) -> str:
    """A template's own words, fit for a message."""
    line = " ".join(str(text).split())[:300]
    return "".join(char if char.isprintable() else "?" for char in line)


_process = _Process()
atexit.register(_process.close)
