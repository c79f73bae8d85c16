"""The corpus: document ``i`` of a seed, always the same one, and the tokens of many in one file.

Training and validation draw from different seeds, so no validation document was made from the same random numbers.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from random import Random

from sentencepiece import SentencePieceProcessor

from .story import document

BOS, EOS = 1, 2


def documents(seed: str, count: int) -> Iterator[str]:
    """The first ``count`` documents of a seed. Raises ValueError for none."""
    if count < 1:
        raise ValueError(f"corpus: {count} stories; expected at least one")
    for i in range(count):
        yield document(Random(f"{seed}/{i}"))  # a string is hashed with sha512: the same everywhere


def write_tokens(path: Path, vocabulary: SentencePieceProcessor, seed: str, count: int) -> int:
    """Write ``BOS story EOS`` of each document as uint16, complete or not at all; returns the number of tokens."""
    total = 0
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            for text in documents(seed, count):
                ids = array("H", [BOS, *vocabulary.encode(text), EOS])
                file.write(ids.tobytes())
                total += len(ids)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return total
