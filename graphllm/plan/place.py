"""How paths, sizes and the system's refusals are worded in this part's one-line messages."""

from __future__ import annotations

import os


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: as it is, or quoted when it holds a newline, an escape or bytes that are not text."""
    text = os.fspath(path)
    return text if text.isprintable() and text else repr(text)


def refusal(error: OSError | ValueError) -> str:
    """Why the system refused, in its own words and in lower case."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return reason[:1].lower() + reason[1:]


def size_text(count: int) -> str:
    """Bytes for people, in powers of 1000 as disks are sold: 4.10 GB."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} TB"
