"""A llama2.c ``tokenizer.bin`` of bytes and a few letters, for models made on the spot."""

from __future__ import annotations

import struct
from pathlib import Path

LETTERS = " etaoinshrdlu"


def write_tokenizer(path: Path, size: int = 259 + len(LETTERS)) -> None:
    """<unk>, <s>, </s>, the 256 bytes, then letters, ``size`` ids in all."""
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    pieces += [letter.encode() for letter in LETTERS]
    pieces += [f"{LETTERS[1 + i % 12]}{LETTERS[1 + i // 12 % 12]}".encode() for i in range(size - len(pieces))]
    records = [struct.pack("<fI", -float(i), len(piece)) + piece for i, piece in enumerate(pieces[:size])]
    path.write_bytes(struct.pack("<I", 8) + b"".join(records))
