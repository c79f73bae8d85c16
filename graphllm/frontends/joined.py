"""One tensor from several of a checkpoint: shards of a matrix, or matrices that are used as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.checkpoint import TensorSource

Parts = Sequence[TensorSource]


def stacked(parts: Parts, name: str) -> TensorSource:
    """Matrices [n,K] of equal shape and dtype, one below the other."""
    rows, columns = parts[0].shape[0] * len(parts), parts[0].shape[1]
    return _joined(parts, name, (rows, columns), _stack)


def side_by_side(parts: Parts, name: str) -> TensorSource:
    """Matrices [N,k] of equal shape and dtype, one beside the other."""
    return _joined(parts, name, (parts[0].shape[0], parts[0].shape[1] * len(parts)), _beside)


def _joined(parts: Parts, name: str, shape: tuple[int, int], read_rows: Any) -> TensorSource:
    assert all((part.shape, part.dtype) == (parts[0].shape, parts[0].dtype) for part in parts)
    read = partial(read_rows, parts)
    return replace(parts[0], source=name, shape=shape, read=partial(read, 0, shape[0]), read_rows=read)


def _stack(parts: Parts, begin: int, end: int) -> NDArray[Any]:
    each = parts[0].shape[0]
    spans = [(max(0, begin - i * each), min(each, end - i * each)) for i in range(len(parts))]
    return np.concatenate([part.rows(*span) for part, span in zip(parts, spans, strict=True) if span[0] < span[1]])


def _beside(parts: Parts, begin: int, end: int) -> NDArray[Any]:
    return np.concatenate([part.rows(begin, end) for part in parts], axis=1)
