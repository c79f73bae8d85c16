"""What a person types: with a terminal, edited lines, history and pasted text; from a pipe, a line a message.

prompt_toolkit edits: it knows messages of several lines, pasted ones, and Windows, which readline does not. Lines that
begin with a triple quote go on until one ends with it, in both.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, Protocol

from graphllm.errors import GraphLLMError, RunError

_QUOTES = '"""'
_LONGEST = 16 << 20  # bytes of a line


class Reader(Protocol):
    """Gives one message after the other."""

    interactive: bool

    def read(self, again: str = "") -> str | None:
        """The next message, None at the end. ``again`` is offered for editing. KeyboardInterrupt for Ctrl-C."""
        ...

    def ask(self, question: str) -> str:
        """What the person says to it; '' where there is none, and for Ctrl-C and Ctrl-D."""
        ...


def reader(commands: list[str], *, history: bool) -> Reader:
    """An editor where standard input and output are a terminal, else lines as they come."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return _Editor(commands, history)
    return _Lines()


class _Lines:
    interactive = False

    def read(self, again: str = "") -> str | None:
        line = self._line()
        if line is None or not line.startswith(_QUOTES):
            return line
        block = [line.removeprefix(_QUOTES)]
        while not block[-1].endswith(_QUOTES) and (line := self._line()) is not None:
            block.append(line)
        return "\n".join(block).removesuffix(_QUOTES)

    def ask(self, question: str) -> str:
        return ""

    def _line(self) -> str | None:
        data = sys.stdin.buffer.readline(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise RunError(f"message: longer than {_LONGEST} bytes; expected a line of text")
        try:
            return data.decode("utf-8").rstrip("\r\n") if data else None
        except UnicodeDecodeError as error:
            raise RunError(f"message: not UTF-8 text; {error.reason} at byte {error.start}") from None


class _Editor:
    interactive = True

    def __init__(self, commands: list[str], history: bool) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.shortcuts import CompleteStyle

        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _(event: Any) -> None:  # pyright: ignore[reportUnusedFunction]  # by its decorator
            event.current_buffer.insert_text("\n")

        self._session: Any = PromptSession(
            history=_history() if history else None,
            key_bindings=keys,
            completer=WordCompleter(commands, sentence=True),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # a menu keeps eight lines free below every prompt
            enable_open_in_editor=True,
            prompt_continuation="  ",
        )

    def read(self, again: str = "") -> str | None:
        try:
            text = self._session.prompt("> ", default=again)
            while text.startswith(_QUOTES) and not (len(text) > 5 and text.endswith(_QUOTES)):
                text += "\n" + self._session.prompt("  ")
        except EOFError:
            return None
        if text.startswith(_QUOTES):
            text = text.removeprefix(_QUOTES).removesuffix(_QUOTES)
        return text

    def ask(self, question: str) -> str:
        from prompt_toolkit import prompt

        with suppress(EOFError, KeyboardInterrupt):
            return prompt(f"{question} ").strip().lower()
        return ""


def _history() -> Any:
    """Lines of earlier chats, in a file of our own where there may be one."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    from graphllm.compiler.cache import cache_folder

    try:
        path = cache_folder() / "chat-history"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # what people say is nobody else's to read
    except (GraphLLMError, OSError):
        return InMemoryHistory()
    return FileHistory(str(path))
