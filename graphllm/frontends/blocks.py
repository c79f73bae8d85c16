"""A checkpoint's tensors in blocks of rows, as a writer wants them: as f32 or as stored, rows in either order of RoPE.

So that a model of any size is converted in little memory: what is alive at a time is one block and what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.checkpoint import Checkpoint, TensorSource
from graphllm.frontends.config import RopePairing

Array = NDArray[Any]
BLOCK = 1 << 22  # elements
TURNED = ("wq", "wk", "bq", "bk", "q_norm", "k_norm")


@dataclass(frozen=True, slots=True)
class Blocks:
    """A checkpoint's tensors, with the rows of q and k ordered for ``pairing``."""

    checkpoint: Checkpoint
    pairing: RopePairing

    def floats(self, name: str, whole: int = 1) -> Iterator[Array]:
        """f32 blocks of a tensor, top to bottom; every block but the last has a multiple of ``whole`` elements."""
        for begin, end in self._spans(name, whole):
            yield self._ordered(name, self._floats(name, begin, end))

    def stored(self, name: str) -> Iterator[Array]:
        """Blocks of a float tensor in the dtype that it is stored in."""
        source = self.checkpoint.tensors[name]
        for begin, end in self._spans(name, 1):
            yield self._ordered(name, source.rows(begin, end))

    def int8(self, name: str, group: int) -> Iterator[tuple[Array, Array]] | None:
        """(int8 rows, f32 scales, flat) where the tensor is stored as such groups already, None where it is not."""
        scale = self.checkpoint.tensors.get(f"{name}.scale")
        if scale is None or self.checkpoint.group != group:
            return None
        # groups that straddle rows can be copied only where rows stay in their order
        if len(scale.shape) == 2:
            return self._int8_rows(name, scale)
        return self._int8_flat(name, scale) if self._head(name) == 1 else None

    def _int8_rows(self, name: str, scale: TensorSource) -> Iterator[tuple[Array, Array]]:
        source = self.checkpoint.tensors[name]
        for begin, end in self._spans(name, 1):
            scales = self._ordered(name, scale.rows(begin, end))
            yield self._ordered(name, source.rows(begin, end)), scales.astype("<f4").reshape(-1)

    def _int8_flat(self, name: str, scale: TensorSource) -> Iterator[tuple[Array, Array]]:
        source = self.checkpoint.tensors[name]
        scales = scale.read().astype("<f4")
        for begin, end in self._spans(name, 1):
            yield source.rows(begin, end), scales[: 0 if begin else None]  # all of them with the first rows

    def _spans(self, name: str, whole: int) -> Iterator[tuple[int, int]]:
        shape = self.checkpoint.tensors[name].shape
        columns = prod(shape[1:])
        unit = whole // gcd(whole, columns)  # rows that hold whole groups
        unit *= self._head(name) // gcd(unit, self._head(name))
        step = max(unit, BLOCK // columns // unit * unit)
        for begin in range(0, shape[0], step):
            yield begin, min(begin + step, shape[0])
            self.checkpoint.release()

    def _head(self, name: str) -> int:
        """Rows that must be read together: those of a head, where their order changes."""
        config = self.checkpoint.config
        turned = name.rpartition(".")[2] in TURNED and config.rope_pairing != self.pairing
        return config.head_dim if turned else 1

    def _ordered(self, name: str, rows: Array) -> Array:
        """Whole heads with their rows in the order asked for."""
        head = self._head(name)
        if head == 1:
            return rows
        outer, inner = (2, head // 2) if self.pairing == "interleaved" else (head // 2, 2)
        turned = rows.reshape(-1, outer, inner, *rows.shape[1:]).swapaxes(1, 2)
        return np.ascontiguousarray(turned).reshape(rows.shape)

    def _floats(self, name: str, begin: int, end: int) -> Array:
        source, scale = self.checkpoint.tensors[name], self.checkpoint.tensors.get(f"{name}.scale")
        rows = source.rows(begin, end).astype(np.float32)
        if scale is None:
            return rows
        group, columns = self.checkpoint.group, source.shape[1]
        if len(scale.shape) == 2:
            scales = scale.rows(begin, end).astype(np.float32)
            rows.reshape(len(rows), -1, group)[...] *= scales[:, :, None]
            return rows
        # flat groups straddle rows: the scale of each element by its place in the matrix
        first, last = begin * columns // group, -(-end * columns // group)
        spread = np.repeat(scale.rows(first, last).astype(np.float32), group)
        at = begin * columns - first * group
        return rows * spread[at : at + rows.size].reshape(rows.shape)
