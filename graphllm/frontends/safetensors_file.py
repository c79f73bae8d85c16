"""One safetensors file: a JSON header, checked before it is believed, and lazy views of the data.

The header is parsed here and not by the safetensors library: its NumPy reader copies every tensor and knows no bf16,
while compiling needs views of the map. The library still writes the files that the tests read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, TypeGuard, cast

import ml_dtypes
import numpy as np

from graphllm.errors import CheckpointError, PlanError
from graphllm.frontends.checkpoint import StoredDType, TensorSource
from graphllm.frontends.mapped_file import MappedFile, map_file
from graphllm.plan.strict_json import parse_object

MAX_HEADER = 25_000_000  # the reference library allows 100 MB, of which parsing would take half a minute
MAX_TENSORS = 100_000  # the largest mixtures have a third of that, over all their files
MAX_RANK = 16
READABLE: dict[str, tuple[StoredDType, np.dtype[Any]]] = {
    "F32": ("f32", np.dtype("<f4")),
    "F16": ("f16", np.dtype("<f2")),
    "BF16": ("bf16", np.dtype(ml_dtypes.bfloat16)),
}
# Tensors that no model of ours reads may have any of these; a dtype we never heard of has no size to check.
ITEM_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    "F4": 4,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the header; ``begin`` and ``end`` are byte offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A checked header and its mapped file."""

    file: MappedFile
    entries: dict[str, Entry]
    metadata: dict[str, str]

    def source(self, name: str) -> TensorSource:
        """A tensor to read; CheckpointError when its dtype is not one of ours."""
        entry = self.entries[name]
        if entry.dtype not in READABLE:
            raise CheckpointError(
                f"{self.file.path}: {name} has dtype {entry.dtype}; expected one of {', '.join(READABLE)}"
            )
        dtype, array_dtype = READABLE[entry.dtype]
        return TensorSource(name, dtype, entry.shape, partial(self.file.view, entry.begin, array_dtype, entry.shape))


def looks_like_safetensors(file: MappedFile) -> bool:
    """Whether the file begins like one, right or damaged: a length, then an object."""
    return file.size > 8 and file.data[8:9] == b"{" and int.from_bytes(file.data[:8], "little") <= MAX_HEADER


def read_safetensors(path: Path) -> SafetensorsFile:
    """Map a file and check its header. Nothing is read or allocated beyond the header."""
    return parse_safetensors(map_file(path))


def parse_safetensors(file: MappedFile) -> SafetensorsFile:
    """Check the header of a mapped file."""
    path = file.path
    length = int.from_bytes(file.data[:8], "little")
    if file.size < 8 or not 2 <= length <= min(MAX_HEADER, file.size - 8):
        raise CheckpointError(
            f"{path}: not a whole safetensors file; expected a header of 2 to {max(2, min(MAX_HEADER, file.size - 8))} "
            f"bytes, got one of {length} in a file of {file.size}"
        )
    try:
        header = parse_object(file.data[8 : 8 + length], f"{path}: safetensors header")
    except PlanError as error:
        raise CheckpointError(str(error)) from None
    metadata = header.pop("__metadata__", {})
    if not is_text_map(metadata):
        raise CheckpointError(f"{path}: __metadata__; expected an object of strings")
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path}: {len(header)} tensors; expected at most {MAX_TENSORS} in a file")
    entries = {name: parse_entry(name, said, 8 + length, file) for name, said in header.items()}
    check_tiling(entries, 8 + length, file)
    return SafetensorsFile(file, entries, metadata)


def is_text_map(value: Any) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(item, str) for item in cast("dict[str, Any]", value).values())


def is_sizes(value: Any, most: int) -> TypeGuard[list[int]]:
    """A list of non-negative integers. ``True`` is an int to Python, not to JSON."""
    if not isinstance(value, list):
        return False
    items = cast("list[Any]", value)
    return len(items) <= most and all(type(item) is int and item >= 0 for item in items)


def parse_entry(name: str, said: Any, start: int, file: MappedFile) -> Entry:
    """One tensor's entry, its range inside the file and of the size that its shape needs."""
    where = f"{file.path}: tensor {name[:100]!r}"
    if not isinstance(said, dict):
        raise CheckpointError(f"{where}: expected an object with dtype, shape and data_offsets")
    fields = cast("dict[str, Any]", said)
    dtype, shape, offsets = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
    if not isinstance(dtype, str):
        raise CheckpointError(f"{where}: dtype is {shorten(dtype)}; expected a string such as 'F32'")
    if not is_sizes(shape, MAX_RANK):
        raise CheckpointError(f"{where}: shape is {shorten(shape)}; expected at most {MAX_RANK} sizes of 0 or more")
    if not is_sizes(offsets, 2) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{where}: data_offsets is {shorten(offsets)}; expected [begin, end], begin <= end")
    begin, end = offsets
    if end > file.size - start:
        raise CheckpointError(
            f"{where}: data ends at byte {end}; expected at most {file.size - start}, the data's size"
        )
    bits = ITEM_BITS.get(dtype)
    if bits is not None and (end - begin) * 8 != prod(shape) * bits:
        raise CheckpointError(f"{where}: {end - begin} bytes; expected {prod(shape) * bits / 8:g} for {dtype} {shape}")
    return Entry(dtype, tuple(shape), start + begin, start + end)


def check_tiling(entries: dict[str, Entry], start: int, file: MappedFile) -> None:
    """The tensors cover the data exactly: no overlap, no hole, nothing after. The format demands it."""
    at, last = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != at:
            wrong = "overlaps" if entry.begin < at else "leaves a hole after"
            raise CheckpointError(
                f"{file.path}: tensor {name[:100]!r} {wrong} {last}; expected it at byte {at}, got {entry.begin}"
            )
        at, last = entry.end, f"tensor {name[:100]!r}"
    if at != file.size:
        raise CheckpointError(f"{file.path}: {file.size} bytes; expected {at}, where the last tensor ends")
