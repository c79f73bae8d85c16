"""Text to standard output or to a file, complete or not at all."""

from __future__ import annotations

import sys


def write_text(path: str | None, text: str) -> None:
    """Write ``text`` to ``path``, or to standard output without one. Raises GraphLLMError when it cannot be written."""
    if path is None or path == "-":
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    from graphllm.plan.atomic_file import replacing

    data = text.encode("utf-8")
    with replacing(path, len(data)) as file:
        file.write(data)
