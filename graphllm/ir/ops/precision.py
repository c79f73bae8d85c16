"""Changes of representation: casts and int8 groups."""

from __future__ import annotations

from typing import Any, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.require import is_float, rank, that
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType

Array = NDArray[Any]


def _dtype(name: str) -> DType:
    that(name in get_args(DType), "cast", "dtype", "one of " + " ".join(get_args(DType)), name)
    return name  # type: ignore[return-value]  # checked above


def _cast_type(x: TensorType, *, dtype: str) -> TensorType:
    is_float("cast", "x", x)
    target = _dtype(dtype)
    is_float("cast", "dtype", TensorType(target, ()))
    return TensorType(target, x.shape)


@op(infer=_cast_type)
def cast(x: Array, *, dtype: str) -> Array:
    """``x`` in another float type, rounded to nearest even."""
    target = NUMPY_DTYPES[_dtype(dtype)]
    if target == ml_dtypes.bfloat16 and x.dtype == np.float32:
        return round_to_bf16(x)
    return x.astype(target)


def round_to_bf16(x: Array) -> Array:
    """f32 -> bf16, nearest even, in integer arithmetic: several times faster than an elementwise conversion."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    out = rounded.astype(np.uint16)
    nan = np.isnan(x)
    if nan.any():
        out[nan] = 0x7FC0
    return out.view(ml_dtypes.bfloat16).reshape(x.shape)  # a contiguous scalar has a dimension


def _dequantize_type(q: TensorType, scale: TensorType, *, group: int) -> TensorType:
    that(q.dtype == "i8", "dequantize", "q", "i8", q)
    rank("dequantize", "q", q, 2)
    is_float("dequantize", "scale", scale)
    that(group > 0, "dequantize", "group", "a positive number", group)
    n, k = q.shape
    if len(scale.shape) == 1:
        that(n * k == scale.shape[0] * group, "dequantize", "scale", f"[{n * k // group}] for flat groups", scale)
    else:
        groups = -(-k // group)
        that(scale.shape == (n, groups), "dequantize", "scale", f"[{n},{groups}] for groups along rows", scale)
    return TensorType("f32", q.shape)


@op(infer=_dequantize_type, cost=lambda t, a: t[0].numel)
def dequantize(q: Array, scale: Array, *, group: int) -> Array:
    """``q * scale`` with one scale for each group of weights, in f32.

    ``scale`` [N, ceil(K/group)]: groups lie along the rows of ``q`` [N,K], the last one of a row may be short.
    ``scale`` flat: groups run over the row-major matrix and may straddle rows (llama2.c version 2).
    """
    dtype = np.float64 if scale.dtype == np.float64 else np.float32
    scale = scale.astype(dtype)
    if scale.ndim == 1:
        return (q.reshape(-1, group) * scale[:, None]).reshape(q.shape)
    return q * np.repeat(scale, group, axis=1)[:, : q.shape[1]]
