"""Token files: llama2.c's shards (``.bin``, uint16), ``.npy``, ``.json``, or ids as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import GraphLLMError
from graphllm.plan.place import refusal, shown

_MOST = 1 << 31  # bytes


def read_tokens(path: Path, limit: int = 0) -> list[int]:
    """The ids of a token file, at most ``limit`` of them unless that is 0.

    Raises:
        GraphLLMError: it cannot be read, holds no ids, or something else.
    """
    where = shown(path)
    try:
        if path.is_file() and path.stat().st_size > _MOST and not limit:
            raise GraphLLMError(f"{where}: {path.stat().st_size} bytes of tokens; expected --limit N with as many")
        match path.suffix:
            case ".bin":
                ids = _uint16(path, where, limit)
            case ".npy":
                ids = _array(path, where)
            case ".json":
                ids = _numbers(json.loads(path.read_text(encoding="utf-8")), where)
            case _:
                ids = [int(word) for word in path.read_text(encoding="utf-8").replace(",", " ").split()]
    except OSError as error:
        raise GraphLLMError(f"{where}: cannot be read; {refusal(error)}") from None
    except (ValueError, RecursionError):
        raise GraphLLMError(
            f"{where}: not token ids; expected .bin of uint16 as llama2.c writes, .npy, .json or ids as text"
        ) from None
    if not ids:
        raise GraphLLMError(f"{where}: no tokens in it")
    return ids[:limit] if limit else ids


def _uint16(path: Path, where: str, limit: int) -> list[int]:
    size = path.stat().st_size
    if size % 2:
        raise GraphLLMError(f"{where}: {size} bytes; expected uint16 tokens, two bytes each")
    return np.fromfile(path, "<u2", count=limit or -1).tolist()


def _array(path: Path, where: str) -> list[int]:
    array = cast("NDArray[Any]", np.load(path, allow_pickle=False))
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise GraphLLMError(f"{where}: {array.dtype}[{','.join(map(str, array.shape))}]; expected whole numbers [T]")
    return array.tolist()


def _numbers(data: object, where: str) -> list[int]:
    ids = cast("list[object]", data) if isinstance(data, list) else []
    if any(type(i) is not int for i in ids):
        raise GraphLLMError(f"{where}: expected a list of whole numbers")
    return cast("list[int]", ids)
