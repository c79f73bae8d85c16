"""Float types and the conversions between them."""

from __future__ import annotations

from typing import Any, get_args

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.require import is_float, that
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType

Array = NDArray[Any]


def float_dtype(name: str) -> DType:
    that(name in get_args(DType), "cast", "dtype", "one of " + " ".join(get_args(DType)), name)
    return name  # type: ignore[return-value]  # checked above


def _cast_type(x: TensorType, *, dtype: str) -> TensorType:
    is_float("cast", "x", x)
    target = float_dtype(dtype)
    is_float("cast", "dtype", TensorType(target, ()))
    return TensorType(target, x.shape)


@op(infer=_cast_type)
def cast(x: Array, *, dtype: str) -> Array:
    """``x`` in another float type, rounded to nearest even."""
    target = NUMPY_DTYPES[float_dtype(dtype)]
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
