"""Mixtures of experts: which experts a row goes to, products with their matrices, and the sum of what they give.

E experts of which each row uses U; their matrices [N,K] lie one below the other in one of [E*N,K]. A row reads the
matrices of its own U experts and no others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.dense import summable
from graphllm.ir.ops.require import is_float, is_i32, rank, same_dtype, that
from graphllm.ir.types import TensorType

Array = NDArray[Any]


def _top_experts_type(logits: TensorType, *, used: int, normalized: bool) -> tuple[TensorType, TensorType]:
    is_float("top_experts", "logits", logits)
    rank("top_experts", "logits", logits, 2)
    that(1 <= used <= logits.shape[1], "top_experts", "used", f"1 to {logits.shape[1]}", used)
    shape = (logits.shape[0], used)
    return TensorType("i32", shape), TensorType(logits.dtype, shape)


@op(infer=_top_experts_type, cost=lambda t, a: 6 * t[0].numel)
def top_experts(logits: Array, *, used: int, normalized: bool) -> tuple[Array, Array]:
    """The ``used`` likeliest experts of each row of a router's ``logits`` [T,E], and the share of each: [T,U] twice.

    A share is the softmax over all E; with ``normalized`` those of a row are divided by their sum. The likeliest first,
    and of equal ones the lower number.
    """
    x = logits.astype(np.float64) if logits.dtype.itemsize == 2 else logits
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    shares = shares / shares.sum(axis=-1, keepdims=True)
    ids = np.argsort(-x, axis=-1, kind="stable")[:, :used].astype(np.int32)
    chosen = np.take_along_axis(shares, ids, axis=-1)
    if normalized:
        chosen = chosen / chosen.sum(axis=-1, keepdims=True)
    return ids, chosen.astype(logits.dtype)


def _expert_linear_type(x: TensorType, w: TensorType, ids: TensorType, *, experts: int) -> TensorType:
    same_dtype("expert_linear", x, w)
    is_float("expert_linear", "x", x)
    rank("expert_linear", "w", w, 2)
    is_i32("expert_linear", "ids", ids)
    rank("expert_linear", "ids", ids, 2)
    that(len(x.shape) in (2, 3), "expert_linear", "x", "[T,K] or [T,U,K]", x)
    that(x.shape[:-1] in (ids.shape[:1], ids.shape), "expert_linear", "x", f"rows as ids {ids}", x)
    that(x.shape[-1] == w.shape[1], "expert_linear", "w", f"[E*N,{x.shape[-1]}] as x is {x}", w)
    that(
        experts > 0 and w.shape[0] % experts == 0, "expert_linear", "experts", f"one that divides {w.shape[0]}", experts
    )
    return TensorType(x.dtype, (*ids.shape, w.shape[0] // experts))


@op(infer=_expert_linear_type, cost=lambda t, a: 2 * t[2].numel * t[1].numel // int(str(a["experts"])))
def expert_linear(x: Array, w: Array, ids: Array, *, experts: int) -> Array:
    """``y[t,u] = W[ids[t,u]] @ x[t]``, or ``@ x[t,u]``: [T,K] or [T,U,K] by ``w`` [E*N,K] -> [T,U,N].

    A number beyond the experts is that of the last one.
    """
    stacked = w.reshape(experts, -1, w.shape[1])
    chosen = np.clip(ids, 0, experts - 1)
    rows = x[:, None] if x.ndim == 2 else x
    rows = np.broadcast_to(rows, (*ids.shape, x.shape[-1]))
    out = np.empty((*ids.shape, stacked.shape[1]), x.dtype)
    for at in np.ndindex(*ids.shape):
        out[at] = (summable(stacked[chosen[at]]) @ summable(rows[at])).astype(x.dtype)
    return out


def _expert_sum_type(y: TensorType, share: TensorType) -> TensorType:
    same_dtype("expert_sum", y, share)
    is_float("expert_sum", "y", y)
    rank("expert_sum", "y", y, 3)
    that(share.shape == y.shape[:2], "expert_sum", "share", f"{list(y.shape[:2])}", share)
    return TensorType(y.dtype, (y.shape[0], y.shape[2]))


@op(infer=_expert_sum_type, cost=lambda t, a: 2 * t[0].numel)
def expert_sum(y: Array, share: Array) -> Array:
    """What a row's experts gave, each by its share: [T,U,N] and [T,U] -> [T,N]."""
    return np.sum(summable(y) * summable(share)[..., None], axis=1).astype(y.dtype)
