"""The block formats of GGUF's tensors, multiplied out exactly as llama.cpp defines them.

A row is a whole number of blocks: scales in f16 and packed integers. Q8_0 is int8 groups of 32 and is kept as it is;
the others become f32 [n, block size] from u8 [n, block bytes].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[Any]  # u8
Floats = NDArray[Any]  # f32

F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, BF16 = 0, 1, 2, 3, 6, 7, 8, 30
Q2_K, Q3_K, Q4_K, Q5_K, Q6_K = 10, 11, 12, 13, 14
TYPE_NAMES: Final[dict[int, str]] = {
    F32: "F32",
    F16: "F16",
    Q4_0: "Q4_0",
    Q4_1: "Q4_1",
    Q5_0: "Q5_0",
    Q5_1: "Q5_1",
    Q8_0: "Q8_0",
    Q2_K: "Q2_K",
    Q3_K: "Q3_K",
    Q4_K: "Q4_K",
    Q5_K: "Q5_K",
    Q6_K: "Q6_K",
    BF16: "BF16",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
}
# Elements and bytes of a block.
_SIZES: Final[dict[int, tuple[int, int]]] = {
    F32: (1, 4),
    F16: (1, 2),
    BF16: (1, 2),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    Q4_0: (32, 18),
    Q4_1: (32, 20),
    Q5_0: (32, 22),
    Q5_1: (32, 24),
    Q8_0: (32, 34),
    Q2_K: (256, 84),
    Q3_K: (256, 110),
    Q4_K: (256, 144),
    Q5_K: (256, 176),
    Q6_K: (256, 210),
}


def block_sizes(type: int) -> tuple[int, int]:
    """Elements and bytes of a block of a known type."""
    return _SIZES[type]


def row_bytes(type: int, columns: int) -> int | None:
    """Bytes of a row; None where the type is unknown or its blocks do not divide the row."""
    elements, size = _SIZES.get(type, (0, 0))
    return columns // elements * size if elements and columns % elements == 0 else None


def _f16(blocks: Bytes, at: int) -> Floats:
    """The f16 at a byte of each block, [n,1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """Low halves of all bytes, then high halves: [n,b] -> [n,2b]."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _bits(packed: Bytes) -> Bytes:
    """Bit i of a little-endian u32: [n,4] -> [n,32]."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=1, bitorder="little")


def _q4_0(b: Bytes) -> Floats:
    return _f16(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - 8)


def _q4_1(b: Bytes) -> Floats:
    return _f16(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _f16(b, 2)


def _q5_0(b: Bytes) -> Floats:
    return _f16(b, 0) * ((_nibbles(b[:, 6:]) | _bits(b[:, 2:6]) << 4).astype(np.float32) - 16)


def _q5_1(b: Bytes) -> Floats:
    return _f16(b, 0) * (_nibbles(b[:, 8:]) | _bits(b[:, 4:8]) << 4).astype(np.float32) + _f16(b, 2)


def _six_bit_scales(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Eight scales and eight minima of 6 bits from 12 bytes: [n,12] -> twice [n,8]."""
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return scales, minima


def _k_groups(b: Bytes, values: Bytes) -> Floats:
    """Eight groups of 32 with a scale and a minimum each: d * scale * q - dmin * minimum."""
    scales, minima = (part.astype(np.float32) for part in _six_bit_scales(b[:, 4:16]))
    spread = values.reshape(-1, 8, 32).astype(np.float32)
    return (_f16(b, 0) * scales)[:, :, None] * spread - (_f16(b, 2) * minima)[:, :, None]


def _q4_k(b: Bytes) -> Floats:
    # 32 bytes hold two groups: low halves, then high halves
    quarters = b[:, 16:].reshape(-1, 4, 1, 32)
    return _k_groups(b, np.concatenate([quarters & 15, quarters >> 4], axis=2)).reshape(-1, 256)


def _q5_k(b: Bytes) -> Floats:
    quarters = b[:, 48:].reshape(-1, 4, 1, 32)
    low = np.concatenate([quarters & 15, quarters >> 4], axis=2).reshape(-1, 8, 32)
    # bit g of byte i is the fifth bit of element i of group g
    high = b[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None] & 1
    return _k_groups(b, low | high << 4).reshape(-1, 256)


def _q6_k(b: Bytes) -> Floats:
    # Two halves of 128; of each, 64 bytes of low nibbles and 32 bytes that hold the two high bits of four rows of 32.
    low = b[:, :128].reshape(-1, 2, 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2)
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = b[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    values = (low | high << 4).astype(np.float32) - 32
    scales = b[:, 192:208].view(np.int8).astype(np.float32)
    return ((_f16(b, 208) * scales)[:, :, None] * values.reshape(-1, 16, 16)).reshape(-1, 256)


_MULTIPLIED: Final[dict[int, Callable[[Bytes], Floats]]] = {
    Q4_0: _q4_0,
    Q4_1: _q4_1,
    Q5_0: _q5_0,
    Q5_1: _q5_1,
    Q4_K: _q4_k,
    Q5_K: _q5_k,
    Q6_K: _q6_k,
}
MULTIPLIED = tuple(_MULTIPLIED)
_AT_ONCE = 1 << 22  # elements, so that what a row of blocks needs in between stays small beside the result


def multiplied_out(type: int, raw: NDArray[Any], columns: int) -> Floats:
    """f32 [rows, columns] from the bytes [rows, row bytes] of a type in ``MULTIPLIED``."""
    elements, size = _SIZES[type]
    out = np.empty((raw.shape[0], columns), np.float32)
    step = max(1, _AT_ONCE // columns)
    for at in range(0, raw.shape[0], step):
        part = np.ascontiguousarray(raw[at : at + step]).reshape(-1, size)
        out[at : at + step] = _MULTIPLIED[type](part).reshape(-1, columns)
    assert columns % elements == 0
    return out


def q8_0_values(raw: NDArray[Any], columns: int) -> NDArray[np.int8]:
    """int8 [rows, columns] of Q8_0 rows."""
    blocks = raw.reshape(raw.shape[0], columns // 32, 34)
    return np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).reshape(raw.shape[0], columns)


def q8_0_scales(raw: NDArray[Any], columns: int) -> NDArray[np.float16]:
    """f16 [rows, columns / 32] of Q8_0 rows."""
    blocks = raw.reshape(raw.shape[0], columns // 32, 34)
    return np.ascontiguousarray(blocks[:, :, :2]).view("<f2").reshape(raw.shape[0], columns // 32)
