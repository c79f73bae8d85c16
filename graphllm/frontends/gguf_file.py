"""One GGUF file: metadata and tensor entries, every length checked against the file before it is believed.

Read here and not by the ``gguf`` package, which allocates what a header claims and trusts its offsets. Layout: "GGUF",
u32 version, u64 tensors, u64 keys, the keys, the tensors' entries, then data aligned to ``general.alignment``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, Final

import numpy as np

from graphllm.errors import CheckpointError
from graphllm.frontends.gguf_blocks import TYPE_NAMES, row_bytes
from graphllm.frontends.mapped_file import MappedFile, map_file

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEYS = 65_536
MAX_TENSORS = 100_000
MAX_NAME = 65_535
MAX_TEXT = 16 << 20
MAX_TEXTS = 1 << 20  # strings in one array; the largest vocabularies have 256 k tokens and twice as many merges
MAX_RANK = 4
DEFAULT_ALIGNMENT = 32

_SCALARS: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor's entry; ``shape`` row-major as everywhere here, ``begin`` a byte offset in the file."""

    type: int
    shape: tuple[int, ...]
    begin: int

    @property
    def type_name(self) -> str:
        return TYPE_NAMES.get(self.type, f"type {self.type}")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A checked header and its mapped file. Arrays of numbers are NumPy arrays, arrays of strings lists."""

    file: MappedFile
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def looks_like_gguf(file: MappedFile) -> bool:
    """Whether the file begins with the magic."""
    return file.data[:4] == MAGIC


def read_gguf(path: Path) -> GgufFile:
    """Map a file and check its header. No tensor is read."""
    return parse_gguf(map_file(path))


def parse_gguf(file: MappedFile) -> GgufFile:
    """Check the header of a mapped file."""
    cursor = _Cursor(file)
    if cursor.take(4) != MAGIC:
        raise CheckpointError(f"{file.path}: does not begin with GGUF; expected a GGUF file")
    version = cursor.number("<I")
    if version not in VERSIONS:
        other = " (big-endian files are not supported)" if version >> 16 else ""
        raise CheckpointError(f"{file.path}: GGUF version {version}; expected 2 or 3{other}")
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise CheckpointError(
            f"{file.path}: {tensors} tensors and {keys} keys; expected at most {MAX_TENSORS} and {MAX_KEYS}"
        )
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = cursor.text(MAX_NAME, "a key")
        if not key.isprintable():  # it is part of messages, of one line each
            raise CheckpointError(f"{file.path}: a key is {key[:100]!r}; expected printable characters")
        if key in metadata:
            raise CheckpointError(f"{file.path}: key {key[:100]!r} is there twice; expected it once")
        metadata[key] = cursor.value(key)
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment % 8:
        raise CheckpointError(f"{file.path}: general.alignment is {shorten(alignment)}; expected a multiple of 8")
    entries: dict[str, GgufTensor] = {}
    for _ in range(tensors):
        name, entry = _entry(cursor)
        if name in entries:
            raise CheckpointError(f"{file.path}: tensor {name[:100]!r} is there twice; expected it once")
        entries[name] = entry
    start = -(-cursor.at // alignment) * alignment
    return GgufFile(file, metadata, _placed(file, entries, start, alignment))


def _entry(cursor: _Cursor) -> tuple[str, GgufTensor]:
    name = cursor.text(MAX_NAME, "a tensor's name")
    where = f"{cursor.file.path}: tensor {name[:100]!r}"
    rank = cursor.number("<I")
    if not 1 <= rank <= MAX_RANK:
        raise CheckpointError(f"{where} has {rank} dimensions; expected 1 to {MAX_RANK}")
    sizes = [cursor.number("<Q") for _ in range(rank)]  # the innermost first
    if not all(0 < size < 2**40 for size in sizes):
        raise CheckpointError(f"{where} has sizes {sizes}; expected positive ones")
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    return name, GgufTensor(kind, tuple(reversed(sizes)), offset)


def _placed(file: MappedFile, entries: dict[str, GgufTensor], start: int, alignment: int) -> dict[str, GgufTensor]:
    """The entries with offsets in the file, each inside it and none over another."""
    placed: dict[str, GgufTensor] = {}
    at, last = start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
        where = f"{file.path}: tensor {name[:100]!r}"
        size = row_bytes(entry.type, entry.shape[-1])
        if size is None:
            if entry.type in TYPE_NAMES:
                raise CheckpointError(
                    f"{where} has rows of {entry.shape[-1]}; expected whole blocks of {entry.type_name}"
                )
            raise CheckpointError(f"{where} has type {entry.type}; expected one of {', '.join(TYPE_NAMES.values())}")
        begin, size = start + entry.begin, size * prod(entry.shape[:-1])
        if entry.begin % alignment:
            raise CheckpointError(f"{where} begins at {entry.begin}; expected a multiple of {alignment}")
        if begin < at:
            raise CheckpointError(f"{where} begins at byte {begin}, over {last}; expected at least {at}")
        if begin + size > file.size:
            raise CheckpointError(
                f"{where}: {size} bytes at {begin} for {entry.type_name} {list(entry.shape)}; "
                f"expected them inside the file of {file.size}"
            )
        placed[name] = GgufTensor(entry.type, entry.shape, begin)
        at, last = begin + size, f"tensor {name[:100]!r}"
    return placed


class _Cursor:
    """Reads forward; whatever would lie beyond the file is an error that says where."""

    def __init__(self, file: MappedFile) -> None:
        self.file, self.at = file, 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > self.file.size:
            raise CheckpointError(
                f"{self.file.path}: truncated GGUF header; expected {count} bytes at {self.at}, "
                f"got {self.file.size - self.at}"
            )
        part, self.at = self.file.data[self.at : end], end
        return part

    def number(self, code: str) -> int:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self, most: int, what: str) -> str:
        size = self.number("<Q")
        if size > most:
            raise CheckpointError(f"{self.file.path}: {what} of {size} bytes at {self.at}; expected at most {most}")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.file.path}: {what} at byte {self.at - size} is not UTF-8, at its byte {error.start}"
            ) from None

    def value(self, key: str) -> Any:
        kind = self.number("<I")
        if kind == _STRING:
            return self.text(MAX_TEXT, f"the text of {key[:60]}")
        if kind in _SCALARS:
            return np.frombuffer(self.take(_SCALARS[kind].itemsize), _SCALARS[kind])[0].item()
        if kind != _ARRAY:
            raise CheckpointError(f"{self.file.path}: {key[:100]} has value type {kind}; expected 0 to 12")
        return self.array(key)

    def array(self, key: str) -> Any:
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _SCALARS:
            size = _SCALARS[kind].itemsize
            if count * size > self.file.size - self.at:
                self.take(count * size)
            self.at += count * size
            return self.file.view(self.at - count * size, _SCALARS[kind], (count,))
        if kind != _STRING:
            raise CheckpointError(
                f"{self.file.path}: {key[:100]} is an array of type {kind}; expected numbers or texts"
            )
        if count > min(MAX_TEXTS, (self.file.size - self.at) // 8):
            raise CheckpointError(
                f"{self.file.path}: {key[:100]} claims {count} texts; "
                f"expected at most {min(MAX_TEXTS, (self.file.size - self.at) // 8)}"
            )
        return [self.text(MAX_TEXT, f"a text of {key[:60]}") for _ in range(count)]
