"""Products with the matrices of chosen experts, which lie one below the other in one matrix [E*N,K].

Each expert that some row chose is read, and widened where it is stored in less than f32, once a step, and no other is
touched. Few rows are multiplied one at a time. The rows of a prompt go SEATS at a time, each in the seat that its place
among all rows gives it, beside rows of zeros where seats are left: so no row's rounding depends on who else chose its
expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import add, argsort, clip, divide, dot, exp, matmul, multiply, nonzero, subtract, take_along_axis, unique
from numpy.typing import NDArray

from graphllm.codegen.kernels.numpy.convert import TILE_BYTES, rows_of, tile_rows

Array = NDArray[Any]
FEW = 8  # rows that are multiplied one at a time
SEATS = 16


def top_experts(logits: Array, ids: Array, shares: Array, normalized: bool) -> None:
    """``logits`` [T,E] -> ``ids`` [T,U], ``shares`` [T,U]; a NaN among logits makes the row's shares NaN."""
    with np.errstate(invalid="ignore"):
        every = subtract(logits, logits.max(axis=-1, keepdims=True))
        exp(every, out=every)
        divide(every, every.sum(axis=-1, keepdims=True), out=every)
        ids[...] = argsort(-logits, axis=-1, kind="stable")[:, : ids.shape[1]]
        shares[...] = take_along_axis(every, ids, axis=-1)
        if normalized:
            divide(shares, shares.sum(axis=-1, keepdims=True), out=shares)


def bind_experts(
    x: Array,
    ids: Array,
    out: Array,
    experts: int,
    stored: Array,
    tile: Array | None = None,
    scale: Array | None = None,
    group: int = 0,
) -> Callable[[], None]:
    """``run()``: ``out[t,u] = W[ids[t,u]] @ x[t,u]``; x [T,U,K] or [T,1,K], out [T,U,N].

    ``stored`` [E*N,K] is f32, or is widened into ``tile`` (flat f32) as ``convert`` does.
    """
    n, k = stored.shape[0] // experts, stored.shape[1]
    few = out.shape[0] <= FEW
    if tile is None:
        step = n if few else min(n, max(1, TILE_BYTES // (4 * k)))  # stays in cache while all rows meet it

        def rows_from(first: int, last: int) -> Array:
            return stored[first:last]

    else:
        fill, step = rows_of(stored, scale, group), min(n, tile_rows(stored.shape, group))
        room = tile[: step * k].reshape(step, k)

        def rows_from(first: int, last: int) -> Array:
            w = room[: last - first]
            fill(first, last, w)
            return w

    product = _one_at_a_time if few else _seated

    def run() -> None:
        chosen = clip(ids, 0, experts - 1)
        for e in unique(chosen):
            t, u = nonzero(chosen == e)
            multiply_tile = product(x, t, u, out)
            for first in range(0, n, step):
                last = min(first + step, n)
                multiply_tile(rows_from(e * n + first, e * n + last), first, last)

    return run


def _one_at_a_time(x: Array, t: Array, u: Array, out: Array) -> Callable[[Array, int, int], None]:
    pairs = list(zip(t.tolist(), u.tolist(), strict=True))
    own = x.shape[1] > 1

    def multiply_tile(w: Array, first: int, last: int) -> None:
        for i, j in pairs:
            dot(w, x[i, j if own else 0], out=out[i, j, first:last])

    return multiply_tile


def _seated(x: Array, t: Array, u: Array, out: Array) -> Callable[[Array, int, int], None]:
    seats = t % SEATS
    taken = [0] * SEATS
    bunches: list[int] = []
    for seat in map(int, seats):
        bunches.append(taken[seat])
        taken[seat] += 1
    rows = np.zeros((max(taken), SEATS, x.shape[2]), x.dtype)
    rows[bunches, seats] = x[t, u if x.shape[1] > 1 else 0]

    def multiply_tile(w: Array, first: int, last: int) -> None:
        for bunch, some in enumerate(rows):
            here = np.equal(bunches, bunch)
            out[t[here], u[here], first:last] = matmul(some, w.T)[seats[here]]

    return multiply_tile


def bind_expert_sum(y: Array, shares: Array, out: Array) -> Callable[[], None]:
    """``run()``: ``out[t] = sum of shares[t,u] * y[t,u]``, in the order of u; y [T,U,N]."""
    part = np.empty_like(out)

    def run() -> None:
        multiply(y[:, 0], shares[:, 0, None], out=out)
        for u in range(1, y.shape[1]):
            multiply(y[:, u], shares[:, u, None], out=part)
            add(out, part, out=out)

    return run
