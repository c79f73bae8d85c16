"""Products with the matrices of chosen experts, which lie one below the other in one matrix [E*N,K].

One row at a time, so that no row's rounding depends on how many others chose the same expert. Where weights are widened
as they are read, each expert that some row chose is widened once a step, tile by tile, and no other is touched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import add, argsort, clip, divide, dot, exp, multiply, nonzero, subtract, take_along_axis, unique
from numpy.typing import NDArray

from graphllm.codegen.kernels.numpy.convert import rows_of, tile_rows

Array = NDArray[Any]


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
    own = x.shape[1] > 1

    if tile is None:

        def run() -> None:
            for (t, u), e in np.ndenumerate(clip(ids, 0, experts - 1)):
                dot(stored[e * n : (e + 1) * n], x[t, u if own else 0], out=out[t, u])

        return run

    fill, step = rows_of(stored, scale, group), min(n, tile_rows(stored.shape, group))
    room = tile[: step * k].reshape(step, k)

    def run_tiled() -> None:
        chosen = clip(ids, 0, experts - 1)
        for e in unique(chosen):
            pairs = list(zip(*nonzero(chosen == e), strict=True))
            for first in range(0, n, step):
                last = min(first + step, n)
                w = room[: last - first]
                fill(e * n + first, e * n + last, w)
                for t, u in pairs:
                    dot(w, x[t, u if own else 0], out=out[t, u, first:last])

    return run_tiled


def bind_expert_sum(y: Array, shares: Array, out: Array) -> Callable[[], None]:
    """``run()``: ``out[t] = sum of shares[t,u] * y[t,u]``, in the order of u; y [T,U,N]."""
    part = np.empty_like(out)

    def run() -> None:
        multiply(y[:, 0], shares[:, 0, None], out=out)
        for u in range(1, y.shape[1]):
            multiply(y[:, u], shares[:, u, None], out=part)
            add(out, part, out=out)

    return run
