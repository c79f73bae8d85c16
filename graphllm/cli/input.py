"""Text from a file or from standard input, of a size that text has."""

from __future__ import annotations

import os
import sys

from graphllm.errors import GraphLLMError

MAX_BYTES = 64 << 20  # far beyond any prompt or IR, and endless input (/dev/zero) stops here


def read_text(path: str, what: str) -> str:
    """The UTF-8 text of a file, or of standard input where ``path`` is -. ``what`` it is begins the message.

    Raises:
        GraphLLMError: it cannot be read, is not UTF-8, or is longer than any text.
    """
    where = f"{what} {'on standard input' if path == '-' else repr(path)}"
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise GraphLLMError(f"{where}: cannot be read; {reason}") from None
    if len(data) > MAX_BYTES:
        raise GraphLLMError(f"{where}: longer than {MAX_BYTES} bytes; expected text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise GraphLLMError(f"{where}: not UTF-8 text; {error.reason} at byte {error.start}") from None


def argument(text: str, what: str) -> str:
    """A text of the command line: UTF-8, also where the locale says that arguments are ASCII. Raises GraphLLMError."""
    try:
        return text if text.isascii() else os.fsencode(text).decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError) as error:
        raise GraphLLMError(f"{what} {text!r:.60}: not UTF-8 text; {error.reason}") from None
