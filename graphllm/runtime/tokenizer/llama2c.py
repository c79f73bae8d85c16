"""llama2.c's tokenizer.bin, rewritten in memory as the sentencepiece model it was exported from.

Its encoder is sentencepiece's BPE (merge the adjacent pair whose concatenation has the highest score, leftmost on
ties; unknown characters become bytes; one space in front), so the library gives the same ids in O(n log n) where the
original takes O(n^2). A conversion to a `tokenizers` BPE would not be exact: there a merge has a rank of its own, so
two splits of one piece cannot tie.

Layout: u32 longest piece in bytes, then records f32 score | u32 size | bytes. Id 0 is unknown, 1 BOS, 2 EOS, 3..258 the
bytes; the number of ids is written nowhere.
"""

from __future__ import annotations

import math
import struct

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer import protobuf

_WHERE = "tokenizer.bin"
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # sentencepiece's piece types
_FIRST_BYTE, _FIRST_NORMAL = 3, 259


def to_sentencepiece(blob: bytes) -> bytes:
    """The serialised sentencepiece ModelProto of a tokenizer.bin."""
    records = _records(blob)
    if len(records) < _FIRST_NORMAL:
        raise TokenizerError(f"{_WHERE}: truncated; expected at least {_FIRST_NORMAL} records, got {len(records)}")
    proto = bytearray()
    for i, (score, text) in enumerate(records):
        piece, kind = _piece(i, text)
        entry = protobuf.bytes_field(1, piece) + protobuf.fixed32_field(2, struct.pack("<f", score))
        proto += protobuf.bytes_field(1, entry + protobuf.varint_field(3, kind))
    names = [_piece(i, records[i][1])[0] for i in range(_FIRST_BYTE)]
    trainer = protobuf.varint_field(3, 2) + protobuf.varint_field(4, len(records)) + protobuf.varint_field(35, 1)
    for i, name in enumerate(names):
        trainer += protobuf.varint_field(40 + i, i) + protobuf.bytes_field(45 + i, name)
    trainer += protobuf.varint_field(43, -1)
    normalizer = protobuf.bytes_field(1, b"identity") + protobuf.varint_field(3, 1)
    normalizer += protobuf.varint_field(4, 0) + protobuf.varint_field(5, 1)
    proto += protobuf.bytes_field(2, trainer) + protobuf.bytes_field(3, normalizer)
    return bytes(proto)


def _piece(i: int, text: str) -> tuple[bytes, int]:
    """The bytes and type of piece ``i``. llama2.c writes BOS and EOS with a line break around them."""
    if i < _FIRST_BYTE:
        return text.strip("\n").encode("utf-8"), _UNKNOWN if i == 0 else _CONTROL
    if i < _FIRST_NORMAL:
        expected = f"<0x{i - _FIRST_BYTE:02X}>"
        if text != expected:
            raise TokenizerError(f"{_WHERE}: id {i} is not a byte; expected {expected!r}, got {text[:20]!r}")
        return text.encode("utf-8"), _BYTE
    return text.replace(" ", "\u2581").encode("utf-8"), _NORMAL


def _records(blob: bytes) -> list[tuple[float, str]]:
    if len(blob) < 4:
        raise TokenizerError(f"{_WHERE}: truncated; expected a 4-byte header, got {len(blob)} bytes")
    (longest,) = struct.unpack_from("<I", blob)
    records: list[tuple[float, str]] = []
    at = 4
    while at < len(blob):
        if len(blob) - at < 8:
            raise TokenizerError(f"{_WHERE}: truncated in record {len(records)}, at byte {at}")
        score, size = struct.unpack_from("<fI", blob, at)
        at += 8
        if size > longest:
            raise TokenizerError(
                f"{_WHERE}: damaged; expected records of at most {longest} bytes, as its header says, "
                f"got {size} in record {len(records)}"
            )
        if size > len(blob) - at:
            raise TokenizerError(
                f"{_WHERE}: truncated in record {len(records)}; expected {size} bytes, got {len(blob) - at}"
            )
        if not math.isfinite(score):
            raise TokenizerError(f"{_WHERE}: damaged; expected a finite score in record {len(records)}, got {score}")
        try:
            records.append((score, blob[at : at + size].decode("utf-8")))
        except UnicodeDecodeError:
            raise TokenizerError(f"{_WHERE}: damaged; record {len(records)} is not UTF-8") from None
        at += size
    return records
