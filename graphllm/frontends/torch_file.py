"""A file of ``torch.save`` (.pth, .pt, .bin) without PyTorch: a zip of one pickle and the bytes of its storages.

The pickle is read by ``torch_pickle``, which runs nothing. Storages lie in the zip uncompressed, so tensors are views
of the mapped file, as they are in every other format.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import StoredDType, TensorSource
from graphllm.frontends.mapped_file import MappedFile, map_file
from graphllm.frontends.torch_pickle import MAX_BYTES, PickleError, Storage, StoredTensor, Value, read_pickle

MAGIC = b"PK\x03\x04"
# The first value that torch.save pickled before zip files. Two bytes of it could be a llama2.c model of D 640.
OLD_TORCH = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
MAX_ENTRIES = 200_000
_LOCAL_HEADER = 30
READABLE: dict[str, tuple[StoredDType, np.dtype[Any]]] = {
    "f32": ("f32", np.dtype("<f4")),
    "f16": ("f16", np.dtype("<f2")),
    "bf16": ("bf16", np.dtype(ml_dtypes.bfloat16)),
}


@dataclass(frozen=True, slots=True)
class TorchFile:
    """A checked file: the pickled value, and where each storage lies in the map."""

    file: MappedFile
    value: Value
    places: dict[str, tuple[int, int]]  # storage key: offset and bytes
    entries: dict[str, StoredTensor]  # the tensors, where the file is one state dict

    def source(self, name: str) -> TensorSource:
        """A tensor of a state dict, to read."""
        return self.tensor(name, self.entries[name])

    def tensor(self, name: str, tensor: StoredTensor) -> TensorSource:
        """A tensor to read; CheckpointError when its dtype or order is not ours, or the file does not hold it."""
        storage = tensor.storage
        if storage.dtype not in READABLE:
            raise CheckpointError(
                f"{self.file.path}: {name[:100]} has dtype {storage.dtype}; expected one of {', '.join(READABLE)}"
            )
        if not tensor.contiguous:
            raise CheckpointError(f"{self.file.path}: {name[:100]} is not row-major; expected a contiguous tensor")
        begin = self.place(name, storage) + tensor.offset * storage.itemsize
        dtype, array_dtype = READABLE[storage.dtype]
        return TensorSource(name, dtype, tensor.shape, partial(self.file.view, begin, array_dtype, tensor.shape))

    def place(self, name: str, storage: Storage) -> int:
        """Where a storage begins. Its size in the pickle must be its size in the file."""
        begin, size = self.places.get(storage.key, (0, -1))
        if size != storage.numel * storage.itemsize:
            got = "no such entry" if size < 0 else f"{size}"
            raise CheckpointError(
                f"{self.file.path}: storage of {name[:100]}; "
                f"expected {storage.numel * storage.itemsize} bytes under data/{storage.key[:40]}, got {got}"
            )
        return begin


def tensors_of(value: Value) -> dict[str, StoredTensor]:
    """The tensors of a state dict by name; whatever else it holds is left out."""
    if not isinstance(value, dict):
        return {}
    items = cast("dict[Value, Value]", value).items()
    return {name: item for name, item in items if isinstance(name, str) and isinstance(item, StoredTensor)}


def looks_like_torch(file: MappedFile) -> bool:
    """Whether the file begins as a zip does."""
    return file.data[:4] == MAGIC


def read_torch(path: Path) -> TorchFile:
    """Map a file, check its zip and read its pickle. No tensor is read."""
    return parse_torch(map_file(path))


def parse_torch(file: MappedFile) -> TorchFile:
    """Check the zip and read the pickle of a mapped file."""
    path = file.path
    if file.data[: len(OLD_TORCH)] == OLD_TORCH:
        raise CheckpointError(
            f"{path}: a pickle, as old torch.save makes (before PyTorch 1.6), which is never opened; save it again"
        )
    places = entry_places(file)
    folder = next((name.removesuffix("/data.pkl") for name in places if name.endswith("/data.pkl")), None)
    if folder is None or "/" in folder:
        raise CheckpointError(f"{path}: a zip file without FOLDER/data.pkl; expected a file of torch.save")
    order = places.get(f"{folder}/byteorder")
    if order is not None and file.data[order[0] : order[0] + min(order[1], 16)] != b"little":
        raise CheckpointError(f"{path}: storages of a big-endian machine; expected little-endian ones")
    begin, size = places[f"{folder}/data.pkl"]
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: data.pkl has {size} bytes; expected at most {MAX_BYTES}")
    try:
        value = read_pickle(file.data[begin : begin + size])
    except PickleError as error:
        raise CheckpointError(f"{path}: data.pkl: {error}") from None
    prefix = f"{folder}/data/"
    storages = {name.removeprefix(prefix): place for name, place in places.items() if name.startswith(prefix)}
    return TorchFile(file, value, storages, tensors_of(value))


def entry_places(file: MappedFile) -> dict[str, tuple[int, int]]:
    """Offset and size of every entry, all stored as they are and inside the file."""
    path = file.path
    try:
        with zipfile.ZipFile(cast(Any, _Window(file))) as archive:
            infos = archive.infolist()
    except CheckpointError:
        raise
    except Exception as error:  # the library raises whatever a damaged directory leads it to
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CheckpointError(f"{path}: a damaged zip file ({reason}); expected a file of torch.save") from None
    if len(infos) > MAX_ENTRIES:
        raise CheckpointError(f"{path}: a zip file of {len(infos)} entries; expected at most {MAX_ENTRIES}")
    places: dict[str, tuple[int, int]] = {}
    for info in infos:
        name = info.filename
        where = f"{path}: entry {name[:100]!r}"
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.file_size != info.compress_size:
            raise CheckpointError(f"{where} is compressed or encrypted; expected what torch.save stores as it is")
        if name in places:
            raise CheckpointError(f"{where} is there twice; expected it once")
        at = info.header_offset
        local = file.data[at : at + _LOCAL_HEADER] if 0 <= at < file.size else b""
        if len(local) < _LOCAL_HEADER or local[:4] != MAGIC:
            raise CheckpointError(f"{where} has no header at byte {at}; the zip file is damaged")
        begin = at + _LOCAL_HEADER + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        if begin + info.file_size > file.size:
            raise CheckpointError(f"{where} ends at byte {begin + info.file_size}; expected at most {file.size}")
        places[name] = (begin, info.file_size)
    return places


class _Window:
    """The mapped file as the zip library wants it, with a limit on what a directory may claim to be."""

    MOST = 64 << 20

    def __init__(self, file: MappedFile) -> None:
        self.file, self.at = file, 0

    def read(self, count: int = -1) -> bytes:
        count = self.file.size - self.at if count < 0 else min(count, max(0, self.file.size - self.at))
        if count > self.MOST:
            raise CheckpointError(
                f"{self.file.path}: a zip directory of {count} bytes; expected at most {self.MOST}, as torch.save makes"
            )
        part = self.file.data[self.at : self.at + count]
        self.at += len(part)
        return part

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, self.file.size)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        pass


def same_place(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two names are one tensor of the file."""
    return (one.storage.key, one.offset, one.shape) == (other.storage.key, other.offset, other.shape)
