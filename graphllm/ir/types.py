"""Element types and static tensor types. No symbolic dimensions: a model is traced once for each step size."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Final, Literal

import ml_dtypes
import numpy as np

DType = Literal["f32", "f16", "bf16", "i8", "i32"]

NUMPY_DTYPES: Final[dict[DType, np.dtype[Any]]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i8": np.dtype(np.int8),
    "i32": np.dtype(np.int32),
}
FLOATS: Final[frozenset[DType]] = frozenset({"f32", "f16", "bf16"})


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape of a row-major tensor, printed as ``f32[1,64]``."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numel * NUMPY_DTYPES[self.dtype].itemsize

    @property
    def numpy(self) -> np.dtype[Any]:
        return NUMPY_DTYPES[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"
