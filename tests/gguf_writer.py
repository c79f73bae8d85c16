"""Writes GGUF files, right or wrong, sharing nothing with the reader. Arrays go in row-major."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q", F64: "<d"}
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 30}
Raw = tuple[int, tuple[int, ...], bytes]  # type, row-major shape, bytes


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def value_bytes(value: Any) -> bytes:
    """A metadata value with its type in front; a tuple says its type itself: (U32, 5)."""
    if isinstance(value, tuple):
        kind, inner = value
        return struct.pack("<I", kind) + struct.pack(CODES[kind], inner)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    items = list(value)
    head = struct.pack("<I", ARRAY)
    if items and isinstance(items[0], str):
        return head + struct.pack("<IQ", STRING, len(items)) + b"".join(map(text, items))
    kind, code = (F32, "<f") if items and isinstance(items[0], float) else (I32, "<i")
    return head + struct.pack("<IQ", kind, len(items)) + b"".join(struct.pack(code, item) for item in items)


def gguf_bytes(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any] | Raw], version: int = 3) -> bytes:
    alignment = metadata.get("general.alignment", 32)
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        out += text(key) + value_bytes(value)
    data = b""
    for name, tensor in tensors.items():
        kind, shape, raw = (
            tensor if isinstance(tensor, tuple) else (TYPES[tensor.dtype], tensor.shape, tensor.tobytes())
        )
        data += bytes(-len(data) % alignment)
        out += text(name) + struct.pack("<I", len(shape))
        out += b"".join(struct.pack("<Q", n) for n in reversed(shape)) + struct.pack("<IQ", kind, len(data))
        data += raw
    return out + bytes(-len(out) % alignment) + data


def write_gguf(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any] | Raw]) -> None:
    path.write_bytes(gguf_bytes(metadata, tensors))


def q8_0(matrix: NDArray[Any]) -> Raw:
    """A matrix in blocks of 32: an f16 scale and 32 int8."""
    blocks = matrix.reshape(-1, 32).astype(np.float32)
    scale = (np.abs(blocks).max(axis=1) / 127).astype(np.float16)
    q = np.round(blocks / np.where(scale == 0, 1, scale).astype(np.float32)[:, None]).clip(-127, 127).astype(np.int8)
    raw = b"".join(s.tobytes() + v.tobytes() for s, v in zip(scale, q, strict=True))
    return 8, matrix.shape, raw
