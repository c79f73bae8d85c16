"""int8 groups: symmetric, along K, one scale for each group of elements (G of them; the last of a row may be short)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.require import is_float, rank, that
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType

Array = NDArray[Any]
_MOST: Final = 127  # -128 is left out: symmetric groups keep the sign of everything they hold
_SCALES: Final[dict[str, DType]] = {"f32": "f32", "f16": "f16"}
_BLOCK: Final = 1 << 18  # elements quantised at a time, so that a matrix needs no copy of itself in f32


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


def groups_of(k: int, group: int) -> int:
    """How many groups a row of ``k`` has; the last one may be short."""
    return -(-k // group)


def _grouped_type(op: str, what: str, x: TensorType, group: int) -> tuple[int, int]:
    is_float(op, what, x)
    rank(op, what, x, 2)
    that(group > 0, op, "group", "a positive number", group)
    return x.shape[0], groups_of(x.shape[1], group)


def _largest(x: Array, group: int) -> Array:
    """The largest magnitude of each group along the rows of ``x`` [..., K] -> [..., ceil(K/group)]; NaN if one is."""
    return np.maximum.reduceat(np.abs(x), range(0, x.shape[-1], group), axis=-1)


def _rounded(x: Array, scale: Array, group: int) -> Array:
    """``x / scale`` to nearest even as int8; 0 where the scale is 0, is NaN, or is infinite."""
    spread = np.repeat(scale, group, axis=-1)[..., : x.shape[-1]]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        q = np.rint(x / spread)
    np.clip(q, -_MOST, _MOST, out=q)
    return np.where(np.isfinite(q), q, 0).astype(np.int8)


def _blocks(x: Array) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, x.shape[1]))
    return (slice(first, first + step) for first in range(0, len(x), step))


def _group_scales_type(w: TensorType, *, group: int, dtype: str) -> TensorType:
    shape = _grouped_type("group_scales", "w", w, group)
    that(dtype in _SCALES, "group_scales", "dtype", "f32 or f16", dtype)
    return TensorType(_SCALES[dtype], shape)


@op(infer=_group_scales_type, cost=lambda t, a: t[0].numel)
def group_scales(w: Array, *, group: int, dtype: str) -> Array:
    """The scale of each group of int8 weights: its largest magnitude / 127 -> [N, ceil(K/group)].

    In f16 a scale is rounded to nearest, and up where 127.5 of it would not reach the group's largest magnitude: so no
    weight is ever off by more than half a step, subnormal scales included.
    """
    stored = NUMPY_DTYPES[_SCALES[dtype]]
    out = np.empty((len(w), groups_of(w.shape[1], group)), stored)
    for rows in _blocks(w):
        largest = _largest(w[rows].astype(np.float32), group)
        scale = largest / np.float32(_MOST)
        if dtype == "f16":
            with np.errstate(over="ignore"):
                narrow = np.minimum(scale, np.float32(np.finfo(np.float16).max)).astype(np.float16)
            short = narrow.astype(np.float32) * np.float32(_MOST + 0.5) < largest
            scale = np.where(short, np.nextafter(narrow, np.finfo(np.float16).max), narrow)
        out[rows] = scale
    return out


def _quantize_groups_type(w: TensorType, scale: TensorType, *, group: int) -> TensorType:
    shape = _grouped_type("quantize_groups", "w", w, group)
    is_float("quantize_groups", "scale", scale)
    that(scale.shape == shape, "quantize_groups", "scale", f"[{shape[0]},{shape[1]}] for groups along rows", scale)
    return TensorType("i8", w.shape)


@op(infer=_quantize_groups_type, cost=lambda t, a: 2 * t[0].numel)
def quantize_groups(w: Array, scale: Array, *, group: int) -> Array:
    """``w / scale`` [N,K] as int8, to nearest even, within +-127; groups lie along the rows, the last may be short.

    A scale of 0 is that of a group of zeros.
    """
    out = np.empty(w.shape, np.int8)
    for rows in _blocks(w):
        out[rows] = _rounded(w[rows].astype(np.float32), scale[rows].astype(np.float32), group)
    return out


def _quantize_rows_type(x: TensorType, *, group: int) -> tuple[TensorType, TensorType]:
    that(x.dtype == "f32", "quantize_rows", "x", "f32", x)
    that(len(x.shape) >= 2, "quantize_rows", "x", "2 dimensions or more", x)
    that(group > 0, "quantize_rows", "group", "a positive number", group)
    *rows, k = x.shape
    return TensorType("i8", x.shape), TensorType("f32", (*rows, groups_of(k, group)))


@op(infer=_quantize_rows_type, cost=lambda t, a: 3 * t[0].numel)
def quantize_rows(x: Array, *, group: int) -> tuple[Array, Array]:
    """Rows [..., K] as int8 groups: (q [..., K], scale [..., ceil(K/group)]), scale = largest magnitude / 127.

    A group that holds a NaN or an infinity has no finite scale, so whatever is made of it is not finite either.
    """
    largest = _largest(x, group)
    scale = largest / largest.dtype.type(_MOST)
    return _rounded(x, scale, group), scale


def _linear_int8_type(
    q: TensorType, q_scale: TensorType, w: TensorType, w_scale: TensorType, *, group: int
) -> TensorType:
    for what, x, scale in (("q", q, q_scale), ("w", w, w_scale)):
        that(x.dtype == "i8", "linear_int8", what, "i8", x)
        rank("linear_int8", what, x, 2)
        that(group > 0, "linear_int8", "group", "a positive number", group)
        is_float("linear_int8", f"{what}_scale", scale)
        shape = (x.shape[0], groups_of(x.shape[1], group))
        that(scale.shape == shape, "linear_int8", f"{what}_scale", f"[{shape[0]},{shape[1]}]", scale)
    that(q_scale.dtype == "f32", "linear_int8", "q_scale", "f32", q_scale)
    that(q.shape[1] == w.shape[1], "linear_int8", "w", f"[N,{q.shape[1]}] as q is {q}", w)
    return TensorType("f32", (q.shape[0], w.shape[0]))


@op(infer=_linear_int8_type, cost=lambda t, a: 2 * t[0].shape[0] * t[2].numel)
def linear_int8(q: Array, q_scale: Array, w: Array, w_scale: Array, *, group: int) -> Array:
    """Sum over groups of ``q_scale * w_scale * (q . w)``: [T,K] by [N,K] -> [T,N].

    The dot product of a group is one of integers, and exact.
    """
    dtype = q_scale.dtype.type
    out = np.zeros((len(q), len(w)), dtype)
    for i, first in enumerate(range(0, q.shape[1], group)):
        part = slice(first, first + group)
        products = q[:, part].astype(np.float64) @ w[:, part].astype(np.float64).T  # integers: exact below 2^53
        with np.errstate(invalid="ignore", over="ignore"):
            out += products.astype(dtype) * (q_scale[:, i, None] * w_scale[:, i].astype(dtype))
    return out
