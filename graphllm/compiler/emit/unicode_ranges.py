"""What an emitted tokenizer must know of Unicode, as ranges of code points: letters, numbers, spaces.

From Python's own tables. The libraries that tokenize have tables of their own, perhaps of another year; characters that
were new between the two may be cut otherwise.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

Ranges = tuple[tuple[int, int], ...]

ASSIGNED = (*range(0x80, 0x34000), *range(0xE0000, 0xE0200))  # beyond ASCII; all others are private or not given out
_SPACES = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


@cache
def letters() -> Ranges:
    """General category L."""
    return _ranges(lambda c: unicodedata.category(c)[0] == "L")


@cache
def numbers() -> Ranges:
    """General category N."""
    return _ranges(lambda c: unicodedata.category(c)[0] == "N")


@cache
def spaces() -> Ranges:
    """The property White_Space."""
    return _ranges(lambda c: ord(c) in _SPACES)


def _ranges(wanted: Callable[[str], bool]) -> Ranges:
    out: list[tuple[int, int]] = []
    for i in ASSIGNED:
        if 0xD800 <= i < 0xF900 or not wanted(chr(i)):
            continue
        if out and out[-1][1] == i - 1:
            out[-1] = out[-1][0], i
        else:
            out.append((i, i))
    return tuple(out)
