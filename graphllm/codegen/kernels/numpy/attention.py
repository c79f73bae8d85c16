"""Grouped-query attention in NumPy: one row over a cache, or many consecutive rows of one slot.

Each ``bind_*`` function makes its views once and returns the function a step calls. K and V are never repeated for
the heads of a group: a batched product broadcasts over them. Scores are computed into scratch, nothing is allocated.
Only positions that were written are read, so whatever else a cache holds cannot matter.

Shapes: T rows, H heads in K groups of G, d head size, S positions of the cache, B slots. A cache is one array [B,K,S,d]
of floats, or two: int8 rows and their scales [B,K,S,1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy import add, copyto, divide, exp, isnan, matmul, maximum, multiply, subtract
from numpy.typing import NDArray

Array = NDArray[Any]
Cache = tuple[Array, ...]
Shapes = tuple[tuple[int, ...], ...]
ROW_BLOCK = 64  # rows of a prompt whose scores are held at once


def row_scratch(q: tuple[int, ...], cache: tuple[int, ...], narrow: bool) -> Shapes:
    """f32 working arrays of ``bind_row``: scaled q, one number a head, scores, and a ``narrow`` cache widened."""
    _, h, d = q
    _, k, s, _ = cache
    return ((h * d,), (h,), (h * s,), *((((k * s * d),), (k * s * d,)) if narrow else ()))


def block_scratch(q: tuple[int, ...], cache: tuple[int, ...]) -> Shapes:
    """f32 working arrays of ``bind_block``: a group's scaled q, products, a number a row, scores, a head's K and V."""
    t, h, d = q
    _, k, s, _ = cache
    rows = min(ROW_BLOCK, t)
    group = h // k * rows
    return ((group, d), (group, d), (group,), (group * s,), (s, d), (s, d))


def scratch_floats(q: tuple[int, ...], cache: tuple[int, ...], narrow: bool) -> int:
    """Length of the scratch that either form needs."""
    row = sum(prod(s) for s in row_scratch(q, cache, narrow))
    return row if q[0] == 1 else max(row, sum(prod(s) for s in block_scratch(q, cache)))


def _carve(scratch: Array, shapes: Shapes) -> Iterator[Array]:
    """Consecutive windows of these shapes on a flat f32 array."""
    at = 0
    for shape in shapes:
        yield scratch[at : at + prod(shape)].reshape(shape)
        at += prod(shape)


@lru_cache(maxsize=1)  # one for all layers and functions: with a long context each of its own would add up
def _ones(n: int) -> Array:
    return np.ones(n, np.float32)


@lru_cache(maxsize=8)
def _above(n: int) -> Array:
    """True [n,n] above the diagonal: a row does not see the rows after it."""
    return np.triu(np.ones((n, n), np.bool_), 1)


def _widen(cache: Cache, seen: tuple[int | slice, ...], out: Array) -> None:
    """What a cache holds at ``seen``, as f32."""
    if len(cache) == 1:
        copyto(out, cache[0][seen])
    else:
        multiply(cache[0][seen], cache[1][seen], out=out)


def bind_row(
    q: Array, keys: Cache, values: Cache, out: Array, scratch: Array, scale: float, window: int
) -> Callable[[int, int], None]:
    """``run(position, slot)``: attention of one row ``q`` [H,d] over ``keys``, ``values`` [B,K,S,d] into ``out``."""
    h, d = q.shape
    shape = keys[0].shape
    k = shape[1]
    narrow = keys[0].dtype != np.float32
    scaled, total, scores, *wide = _carve(scratch, row_scratch((1, h, d), shape, narrow))
    flat_q = q.reshape(-1, copy=False)
    grouped_q, total = scaled.reshape(k, h // k, d), total.reshape(k, h // k, 1)
    grouped_out = out.reshape(k, h // k, d, copy=False)

    def seen(cache: Cache, at: int, slot: int, first: int, end: int) -> Array:
        """[K,n,d]"""
        where = (slot, slice(None), slice(first, end))
        if not narrow:
            return cache[0][where]
        room = wide[at][: k * (end - first) * d].reshape(k, end - first, d)
        _widen(cache, where, room)
        return room

    def run(position: int, slot: int) -> None:
        end = position + 1
        first = end - window if 0 < window < end else 0
        seen_k, seen_v = seen(keys, 0, slot, first, end), seen(values, 1, slot, first, end)
        s = scores[: h * (end - first)].reshape(k, h // k, end - first)
        multiply(flat_q, scale, out=scaled)
        matmul(grouped_q, seen_k.swapaxes(1, 2), out=s)  # [K,G,d] @ [K,d,n]
        maximum.reduce(s, axis=-1, keepdims=True, out=total)
        subtract(s, total, out=s)
        exp(s, out=s)
        add.reduce(s, axis=-1, keepdims=True, out=total)
        matmul(s, seen_v, out=grouped_out)  # [K,G,n] @ [K,n,d]
        divide(grouped_out, total, out=grouped_out)

    return run


def _keep_off(flat: Array, values: Array, own: int, window: int, out: Array) -> None:
    """``flat`` [g*n,m] @ ``values`` [m,d] into ``out`` [g,n,d] where some values are no numbers.

    A weight of 0 would not keep them off the rows that do not see them. Row i sees ``own + i`` and those before it, as
    far as its window reaches.
    """
    n, broken = out.shape[1], ~np.isfinite(values)
    matmul(flat, np.where(broken, np.float32(0), values), out=out.reshape(len(flat), -1))
    for j in np.flatnonzero(broken.any(axis=1)):
        first, end = max(0, j - own), max(0, min(n, j - own + window)) if window else n
        out[:, first:end] += np.where(broken[j], values[j], np.float32(0))


def bind_rows(
    q: Array, keys: Cache, values: Cache, out: Array, scratch: Array, scale: float, window: int
) -> Callable[[list[tuple[int, int, int]]], None]:
    """``run([(row, position, slot), …])``: ``bind_row`` for each row of ``q`` [T,H,d] that is there; others give 0."""
    single = [bind_row(q[t], keys, values, out[t], scratch, scale, window) for t in range(len(q))]

    def run(rows: list[tuple[int, int, int]]) -> None:
        if len(rows) < len(single):
            out.fill(0)
        for t, position, slot in rows:
            single[t](position, slot)

    return run


def bind_block(
    q: Array, keys: Cache, values: Cache, out: Array, scratch: Array, scale: float, window: int
) -> Callable[[int, int, int], None]:
    """``run(first position, live rows, slot)``: causal attention of the consecutive rows of ``q`` [T,H,d] into ``out``.

    K and V of one head at a time are staged in f32, with zeros behind the live rows up to where a full chunk would end.
    So the shape of every product, and with it each row's rounding, depends on where the chunk starts and not on how
    many of its rows are live. What a row does not see does not reach it, be it NaN.
    """
    t, h, _ = q.shape
    _, k, s_max, _ = keys[0].shape
    g = h // k
    scaled, product, total, scores, staged_k, staged_v = _carve(scratch, block_scratch(q.shape, keys[0].shape))
    step = len(scaled) // g
    ones, above = _ones(s_max), _above(step)

    def run(start: int, live: int, slot: int) -> None:
        base = max(0, start + 1 - window) if window else 0  # the first position any row sees
        stop = min(s_max, start + t)
        written = start + live - base
        for head in range(k):
            for staged, cache in ((staged_k, keys), (staged_v, values)):
                _widen(cache, (slot, head, slice(base, start + live)), staged[:written])
                staged[written : stop - base] = 0
            for r in range(0, live, step):
                n = min(step, t - r)
                lo = max(base, start + r + 1 - window) if window else base
                hi = min(stop, start + r + n)
                group = scaled[: g * n].reshape(g, n, -1)  # the heads of a group together: one product of g*n rows
                multiply(q[r : r + n, head * g : (head + 1) * g].swapaxes(0, 1), scale, out=group)
                flat = scores[: g * n * (hi - lo)].reshape(g * n, hi - lo)
                matmul(scaled[: g * n], staged_k[lo - base : hi - base].T, out=flat)  # [g*n,d] @ [d,hi-lo]
                s = flat.reshape(g, n, hi - lo)
                own = start + r - lo  # column of the block's first row
                copyto(s[:, :, own:], -np.inf, where=above[:n, : hi - lo - own])
                if window:
                    for i in range(n):
                        s[:, i, : max(0, own + i + 1 - window)] = -np.inf
                sums = total[: g * n].reshape(g, n, 1)
                maximum.reduce(s, axis=-1, keepdims=True, out=sums)
                subtract(s, sums, out=s)
                exp(s, out=s)
                matmul(flat, ones[: hi - lo], out=total[: g * n])  # row sums, as a product: several times faster
                seen_v = staged_v[lo - base : hi - base]
                matmul(flat, seen_v, out=product[: g * n])  # [g*n,hi-lo] @ [hi-lo,d]
                mixed = product[: g * n].reshape(g, n, -1)
                if isnan(add.reduce(product[: g * n], axis=None)):
                    _keep_off(flat, seen_v, own, window, mixed)
                divide(mixed, sums, out=out[r : r + n, head * g : (head + 1) * g].swapaxes(0, 1))
        out[live:] = 0

    return run
