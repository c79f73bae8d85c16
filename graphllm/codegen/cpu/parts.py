"""Parts of a plan's text that may be compiled side by side (``parts.h``): kernels of few rows, and kernels of many."""

from __future__ import annotations

from typing import Final

PARTS: Final = 2


def part_begins(number: int) -> str:
    """The line where a part begins."""
    return f"#if GRAPHLLM_IS_PART({number})"


def in_parts(text: str) -> bool:
    """Whether a text has parts. No comment of it is such a line, whatever names are in it."""
    return f"\n{part_begins(PARTS - 1)}\n" in text
