"""Arithmetic on rows: embedding, normalisation, matrix products, elementwise functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.require import is_float, is_i32, rank, same_dtype, that
from graphllm.ir.types import TensorType

Array = NDArray[Any]


def summable(x: Array) -> Array:
    """Narrow floats in float64: a sum of them is exact until it is rounded, once, to their type."""
    return x.astype(np.float64) if x.dtype.itemsize == 2 else x


def _embed_type(ids: TensorType, table: TensorType) -> TensorType:
    is_i32("embed", "ids", ids)
    rank("embed", "ids", ids, 1)
    rank("embed", "table", table, 2)
    return TensorType(table.dtype, (ids.shape[0], table.shape[1]))


@op(infer=_embed_type)
def embed(ids: Array, table: Array) -> Array:
    """Rows of ``table`` [V,D] by ``ids`` [T] -> [T,D]."""
    return table[ids]


def _rmsnorm_type(x: TensorType, weight: TensorType, *, eps: float) -> TensorType:
    same_dtype("rmsnorm", x, weight)
    is_float("rmsnorm", "x", x)
    rank("rmsnorm", "weight", weight, 1)
    that(len(x.shape) >= 2, "rmsnorm", "x", "at least two dimensions", x)
    that(x.shape[-1:] == weight.shape, "rmsnorm", "weight", f"[{x.shape[-1]}] as x's last dimension", weight)
    that(eps > 0, "rmsnorm", "eps", "a positive number", eps)
    return x


@op(infer=_rmsnorm_type, cost=lambda t, a: 4 * t[0].numel, reuses=(0,))
def rmsnorm(x: Array, weight: Array, *, eps: float) -> Array:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    a = summable(x)
    return (a / np.sqrt(np.mean(a * a, axis=-1, keepdims=True) + a.dtype.type(eps)) * weight).astype(x.dtype)


def _linear_type(x: TensorType, w: TensorType, *, out: str) -> TensorType:
    same_dtype("linear", x, w)
    is_float("linear", "x", x)
    rank("linear", "x", x, 2)
    rank("linear", "w", w, 2)
    that(x.shape[1] == w.shape[1], "linear", "w", f"[N,{x.shape[1]}] as x is {x}", w)
    that(out in ("", "f32"), "linear", "out", "f32, or nothing for the dtype of x", out)
    return TensorType("f32" if out else x.dtype, (x.shape[0], w.shape[0]))


@op(infer=_linear_type, cost=lambda t, a: 2 * t[0].shape[0] * t[1].numel)
def linear(x: Array, w: Array, *, out: str = "") -> Array:
    """``x @ w.T``: [T,K] by [N,K] -> [T,N]; with ``out`` f32, sums of narrow floats are not rounded to their type."""
    return (summable(x) @ summable(w).T).astype(np.float32 if out and x.dtype.itemsize == 2 else x.dtype)


def _add_type(a: TensorType, b: TensorType) -> TensorType:
    is_float("add", "a", a)
    same_dtype("add", a, b)
    that(b.shape in (a.shape, a.shape[-1:]), "add", "b", f"{a.shape} or {a.shape[-1:]}", b)
    return a


@op(infer=_add_type, cost=lambda t, a: t[0].numel, reuses=(0, 1))
def add(a: Array, b: Array) -> Array:
    """``a + b``; ``b`` has the shape of ``a`` or of its last dimension (a bias)."""
    return a + b


def _mul_type(a: TensorType, b: TensorType) -> TensorType:
    is_float("mul", "a", a)
    same_dtype("mul", a, b)
    that(b.shape == a.shape, "mul", "b", f"{a.shape}", b)
    return a


@op(infer=_mul_type, cost=lambda t, a: t[0].numel, reuses=(0, 1))
def mul(a: Array, b: Array) -> Array:
    """``a * b``, elementwise."""
    return a * b


def _silu_type(x: TensorType) -> TensorType:
    is_float("silu", "x", x)
    return x


@op(infer=_silu_type, cost=lambda t, a: 4 * t[0].numel)
def silu(x: Array) -> Array:
    """``x / (1 + exp(-x))`` (Elfwing et al. 2017, arXiv:1702.03118)."""
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, 0
        return x / (1 + np.exp(-x))
