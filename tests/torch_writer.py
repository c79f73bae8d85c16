"""Writes what ``torch.save`` writes, without PyTorch: Python's own pickler under PyTorch's names, in a zip file.

The names are lent to stand-in modules while pickling, so that the instructions are the pickler's and not ours.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
}


@contextmanager
def stand_in() -> Generator[types.ModuleType]:
    """Modules named torch and torch._utils with the globals that checkpoints name."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*_: Any) -> None:
        raise AssertionError("nothing calls this")

    rebuild.__module__, rebuild.__qualname__, rebuild.__name__ = (
        "torch._utils",
        "_rebuild_tensor_v2",
        "_rebuild_tensor_v2",
    )
    utils._rebuild_tensor_v2 = rebuild  # type: ignore[attr-defined]
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    kept = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Shared:
    """A tensor that is a part of another array: (array, offset in elements, shape)."""

    def __init__(self, whole: NDArray[Any], offset: int, shape: tuple[int, ...], strides: tuple[int, ...] = ()) -> None:
        self.whole, self.offset, self.shape, self.strides = whole, offset, shape, strides


def torch_bytes(value: Any, protocol: int = 2, folder: str = "archive") -> bytes:
    """The file of ``torch.save(value)``, in which arrays are tensors."""
    blobs: list[bytes] = []
    keys: dict[int, int] = {}
    kept: list[Any] = []  # so that no id is given twice

    with stand_in() as torch:

        class Storage:
            def __init__(self, array: NDArray[Any]) -> None:
                self.array = array

        class Tensor:
            def __init__(self, array: NDArray[Any], part: Shared | None = None) -> None:
                self.array, self.part = array, part

            def __reduce__(self) -> Any:
                shape = self.part.shape if self.part else self.array.shape
                strides, step = [], 1
                for n in reversed(shape):
                    strides.insert(0, step)
                    step *= n
                said = self.part.strides if self.part and self.part.strides else tuple(strides)
                offset = self.part.offset if self.part else 0
                rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2  # type: ignore[attr-defined]
                return rebuild, (Storage(self.array), offset, tuple(shape), said, False, OrderedDict())

        class Pickler(pickle.Pickler):
            def persistent_id(self, obj: Any) -> Any:
                if not isinstance(obj, Storage):
                    return None
                array = obj.array
                if id(array) not in keys:
                    keys[id(array)] = len(blobs)
                    blobs.append(array.tobytes())
                    kept.append(array)
                return ("storage", getattr(torch, STORAGES[array.dtype]), str(keys[id(array)]), "cpu", array.size)

        def wrap(item: Any) -> Any:
            if isinstance(item, np.ndarray):
                return Tensor(item)
            if isinstance(item, Shared):
                return Tensor(item.whole, item)
            if isinstance(item, dict):
                return type(item)((key, wrap(inner)) for key, inner in item.items())
            if isinstance(item, list):
                return [wrap(inner) for inner in item]
            return item

        out = io.BytesIO()
        Pickler(out, protocol).dump(wrap(value))
    return zip_bytes(
        {"data.pkl": out.getvalue(), "byteorder": b"little"} | {f"data/{i}": b for i, b in enumerate(blobs)}, folder
    )


def zip_bytes(entries: dict[str, bytes], folder: str = "archive", compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these entries in one folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{folder}/{name}", content)
    return out.getvalue()


def write_torch(path: Path, value: Any, protocol: int = 2) -> None:
    path.write_bytes(torch_bytes(value, protocol))
