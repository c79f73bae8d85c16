"""Data movement: windows on a tensor, joins, row selection, and the row order that one RoPE layout needs."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.require import is_i32, rank, some_dimension, that
from graphllm.ir.types import TensorType

Array = NDArray[Any]


def _reshape_type(x: TensorType, *, shape: tuple[int, ...]) -> TensorType:
    that(all(n > 0 for n in shape), "reshape", "shape", "positive sizes", list(shape))
    that(prod(shape) == x.numel, "reshape", "shape", f"{x.numel} elements", list(shape))
    return TensorType(x.dtype, shape)


@op(infer=_reshape_type, views=0)
def reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    """The same elements in row-major order under another shape."""
    return x.reshape(shape)


def _split_type(x: TensorType, *, sizes: tuple[int, ...]) -> tuple[TensorType, ...]:
    some_dimension("split", "x", x)
    that(len(sizes) >= 2 and all(n > 0 for n in sizes), "split", "sizes", "two or more positive sizes", list(sizes))
    that(sum(sizes) == x.shape[-1], "split", "sizes", f"a sum of {x.shape[-1]}", list(sizes))
    return tuple(TensorType(x.dtype, (*x.shape[:-1], n)) for n in sizes)


@op(infer=_split_type, views=0)
def split(x: Array, *, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """Consecutive pieces of the last dimension."""
    edges = np.cumsum(sizes)[:-1].tolist()
    return tuple(np.split(x, edges, axis=-1))


def _concat_type(first: TensorType, second: TensorType, *rest: TensorType) -> TensorType:
    some_dimension("concat", "first", first)
    for x in (second, *rest):
        some_dimension("concat", "operands", x)
        that(
            x.dtype == first.dtype and x.shape[1:] == first.shape[1:],
            "concat",
            "operands",
            f"{first} but for the first dimension",
            x,
        )
    return TensorType(first.dtype, (sum(x.shape[0] for x in (first, second, *rest)), *first.shape[1:]))


@op(infer=_concat_type)
def concat(first: Array, second: Array, *rest: Array) -> Array:
    """Operands one after another along the first dimension."""
    return np.concatenate((first, second, *rest))


def _take_rows_type(x: TensorType, rows: TensorType) -> TensorType:
    rank("take_rows", "x", x, 2)
    rank("take_rows", "rows", rows, 1)
    is_i32("take_rows", "rows", rows)
    return TensorType(x.dtype, (rows.shape[0], x.shape[1]))


@op(infer=_take_rows_type)
def take_rows(x: Array, rows: Array) -> Array:
    """Rows of ``x`` [T,D] by index ``rows`` [R] -> [R,D]: only what was asked for goes on to the classifier."""
    return x[rows]


def _interleave_type(x: TensorType, *, heads: int) -> TensorType:
    that(len(x.shape) in (1, 2), "interleave", "x", "one or two dimensions", x)
    ok = heads > 0 and x.shape[0] % (2 * heads) == 0
    that(ok, "interleave", "heads", f"a number of even blocks in {x.shape[0]} rows", heads)
    return x


@op(infer=_interleave_type)
def interleave(x: Array, *, heads: int) -> Array:
    """Within each of ``heads`` equal blocks of rows, new[2i] = old[i] and new[2i+1] = old[n/2+i].

    Turns the rows of a projection made for half-split RoPE into those interleaved RoPE needs.
    """
    blocks = x.reshape(heads, 2, x.shape[0] // (2 * heads), *x.shape[1:])
    return np.ascontiguousarray(blocks.swapaxes(1, 2)).reshape(x.shape)
