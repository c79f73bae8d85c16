"""Weights are expressions over checkpoint tensors; here they are evaluated, one at a time, as a plan asks for them."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.core import Weight
from graphllm.ir.interpreter import apply

Array = NDArray[Any]


class WeightReader:
    """``reader(weight)``: the weight's array, made afresh by every call; ``source`` reads a checkpoint's own.

    What a checkpoint's map has in memory is let go between calls: otherwise a compilation would come to hold the whole
    model, page by page.
    """

    def __init__(self, source: Callable[[Weight], Array]) -> None:
        self._source = source
        self._maps: dict[int, mmap.mmap] = {}

    def __call__(self, weight: Weight) -> Array:
        for mapped in self._maps.values():
            if hasattr(mapped, "madvise"):  # not on Windows
                mapped.madvise(mmap.MADV_DONTNEED)  # pages still being written or hashed are simply read again
        return self._evaluate(weight)

    def _evaluate(self, weight: Weight) -> Array:
        if weight.definition is None:
            array = self._source(weight)
            base = cast(object, array.base)
            while isinstance(base, np.ndarray):
                base = cast(object, cast(Array, base).base)
            if isinstance(base, mmap.mmap):
                self._maps[id(base)] = base
            return array
        operands: list[Array] = []
        for v in weight.definition.operands:
            assert isinstance(v, Weight)
            operands.append(self._evaluate(v))
        (out,) = apply(weight.definition, operands)
        assert out.shape == weight.type.shape, f"{weight.name}: made {out.shape}, declared {weight.type}"
        return np.ascontiguousarray(out)
