"""The little of protobuf's wire format that a sentencepiece model needs: walking a message's fields, and writing them.

Ours, because the generated classes would bring the whole protobuf package for two questions and one message.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message; fixed-size values come as bytes. ValueError when it is not a message."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == BYTES:
            size, at = _varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if size > end - at:
            raise ValueError(f"a field of {size} bytes at byte {at}, but {end - at} are left")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"an unfinished number at byte {at}")


def varint_field(number: int, value: int) -> bytes:
    """A number; negative ones are written as 64-bit two's complement."""
    return _write_varint(number << 3 | VARINT) + _write_varint(value % 2**64)


def bytes_field(number: int, value: bytes) -> bytes:
    """Bytes, a string or a nested message."""
    return _write_varint(number << 3 | BYTES) + _write_varint(len(value)) + value


def fixed32_field(number: int, value: bytes) -> bytes:
    """Four bytes as they are, such as a float."""
    assert len(value) == 4
    return _write_varint(number << 3 | FIXED32) + value


def _write_varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
