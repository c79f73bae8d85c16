"""Stored weights as f32, whole or tile by tile: 16-bit floats and int8 groups; rows as int8. N rows, K columns."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import numpy as np
from numpy import absolute, copyto, divide, dot, left_shift, matmul, maximum, multiply, nan_to_num, rint
from numpy.typing import NDArray

Array = NDArray[Any]
TILE_BYTES = 1 << 20  # of f32: small enough to stay in a core's cache between being written and being read


def widen(stored: Array, out: Array) -> None:
    """A 16-bit float array into an f32 one of its shape, exactly."""
    if stored.dtype.name == "bfloat16":  # an f32 without its lower half
        bits = out.view(np.uint32)
        copyto(bits, stored.view(np.uint16))
        left_shift(bits, 16, out=bits)
    else:
        copyto(out, stored)


def scale_groups(q: Array, scale: Array, group: int, out: Array) -> None:
    """``q * scale`` of int8 groups along the rows into ``out`` [N,K]; ``scale`` [N, ceil(K/group)]."""
    copyto(out, q)
    k = out.shape[-1]
    whole = k - k % group
    if whole:
        grouped = out[..., :whole].reshape(*out.shape[:-1], whole // group, group, copy=False)
        multiply(grouped, scale[..., : whole // group, None], out=grouped)
    if whole < k:
        multiply(out[..., whole:], scale[..., -1:], out=out[..., whole:])


def quantize_rows(x: Array, group: int, q: Array, scale: Array) -> None:
    """f32 ``x`` [..., K] as int8 groups: ``q`` [..., K], ``scale`` [..., ceil(K/group)], the largest magnitude / 127.

    A group with something that is not finite has a scale that is not, and elements of 0.
    """
    k = x.shape[-1]
    rounded = absolute(x)
    maximum.reduceat(rounded, range(0, k, group), axis=-1, out=scale)
    divide(scale, 127, out=scale)
    whole = k - k % group
    with np.errstate(divide="ignore", invalid="ignore"):
        if whole:
            shape = (*x.shape[:-1], whole // group, group)
            source, to = (a[..., :whole].reshape(shape, copy=False) for a in (x, rounded))
            divide(source, scale[..., : whole // group, None], out=to)
        if whole < k:
            divide(x[..., whole:], scale[..., -1:], out=rounded[..., whole:])
    rint(rounded, out=rounded)
    nan_to_num(rounded, copy=False, posinf=0, neginf=0)
    copyto(q, rounded, casting="unsafe")


def rows_of(stored: Array, scale: Array | None, group: int) -> Callable[[int, int, Array], None]:
    """``fill(first, last, out)``: f32 rows first..last of a stored matrix [N,K] into ``out``."""
    if scale is None:
        return lambda first, last, out: widen(stored[first:last], out)
    if scale.ndim == 2:
        return lambda first, last, out: scale_groups(stored[first:last], scale[first:last], group, out)
    k = stored.shape[1]
    flat, column = stored.reshape(-1), scale[:, None]

    def fill(first: int, last: int, out: Array) -> None:  # flat groups; first * k is a multiple of group
        grouped = out.reshape(-1, group)
        copyto(grouped, flat[first * k : last * k].reshape(-1, group))
        multiply(grouped, column[first * k // group : last * k // group], out=grouped)

    return fill


def tile_rows(shape: tuple[int, ...], group: int) -> int:
    """Rows of a tile of a matrix [N,K]: near TILE_BYTES, and whole flat groups."""
    n, k = shape
    unit = min(n, group // gcd(k, group)) if group else 1  # flat groups fill the matrix; others may be longer than rows
    return max(unit, min(n, TILE_BYTES // (4 * k)) // unit * unit)


def expanded(stored: Array, scale: Array | None = None, group: int = 0) -> Array:
    """The whole stored matrix in f32."""
    out = np.empty(stored.shape, np.float32)
    if stored.ndim != 2:
        widen(stored, out)
        return out
    fill = rows_of(stored, scale, group)
    step = tile_rows(stored.shape, group)
    for first in range(0, len(out), step):
        fill(first, min(first + step, len(out)), out[first : first + step])
    return out


def bind_tiled_linear(
    x: Array, out: Array, stored: Array, tile: Array, scale: Array | None = None, group: int = 0
) -> Callable[[], None]:
    """``run()``: ``x @ w.T`` with w [N,K] widened tile by tile into ``tile`` (flat f32). x is [K] or [T,K]."""
    n, k = stored.shape
    step = tile_rows(stored.shape, group)
    fill = rows_of(stored, scale, group)
    room = tile[: step * k].reshape(step, k)
    edges = [(first, min(first + step, n)) for first in range(0, n, step)]
    tiles = [(first, last, room[: last - first], out[..., first:last]) for first, last in edges]

    def run() -> None:
        for first, last, w, part in tiles:
            fill(first, last, w)
            if x.ndim == 1:
                dot(w, x, out=part)
            else:
                matmul(x, w.T, out=part)

    return run
