"""Unicode's normal form C as tables: what Python's own say of marks, of characters apart and of two as one.

Syllables of Hangul are computed, not looked up. Unicode's standard annex 15 has the rules; some characters that are
apart as two are never put together again, which shows in what the form makes of the two.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from graphllm.compiler.emit.unicode_ranges import ASSIGNED

_HANGUL = range(0xAC00, 0xD7A4)


@cache
def mark_classes() -> dict[int, int]:
    """The combining class of every character that has one."""
    return {i: number for i in ASSIGNED if (number := unicodedata.combining(chr(i)))}


@cache
def decompositions() -> dict[int, tuple[int, ...]]:
    """What characters are wholly apart, of those that are more than themselves."""
    parts = {i: unicodedata.normalize("NFD", chr(i)) for i in ASSIGNED if i not in _HANGUL and not 0xD800 <= i < 0xE000}
    return {i: tuple(map(ord, p)) for i, p in parts.items() if p != chr(i)}


@cache
def compositions() -> dict[tuple[int, int], int]:
    """Two characters that are one together."""
    out: dict[tuple[int, int], int] = {}
    for i in decompositions():
        words = unicodedata.decomposition(chr(i)).split()
        if len(words) == 2 and not words[0].startswith("<") and unicodedata.normalize("NFC", chr(i)) == chr(i):
            out[int(words[0], 16), int(words[1], 16)] = i
    return out
