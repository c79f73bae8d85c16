"""Numbers for people: bytes and operations in powers of 1000, three digits."""

from __future__ import annotations

from graphllm.plan.place import size_text


def bytes_text(count: int) -> str:
    """``4.10 GB``; small counts whole."""
    return f"{count} B" if count < 1000 else size_text(count)


def count_text(count: float) -> str:
    """``1.5 G`` with a trailing space where there is no prefix, for a unit to follow."""
    value = float(count)
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} T"
