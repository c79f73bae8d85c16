"""Weights are expressions over checkpoint tensors; here they are evaluated, one at a time, as a plan asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.core import Weight
from graphllm.ir.interpreter import apply

Array = NDArray[Any]


class WeightReader:
    """``reader(weight)``: the weight's array, made afresh by every call; ``source`` reads a checkpoint's own.

    ``release`` is called between calls, to let go of what the checkpoint's maps have in memory: otherwise a compilation
    would come to hold the whole model, page by page.
    """

    def __init__(self, source: Callable[[Weight], Array], release: Callable[[], None]) -> None:
        self._source, self._release = source, release

    def __call__(self, weight: Weight) -> Array:
        self._release()  # pages still being written or hashed are simply read again
        return self._evaluate(weight)

    def _evaluate(self, weight: Weight) -> Array:
        if weight.definition is None:
            return self._source(weight)
        operands: list[Array] = []
        for v in weight.definition.operands:
            assert isinstance(v, Weight)
            operands.append(self._evaluate(v))
        (out,) = apply(weight.definition, operands)
        assert out.shape == weight.type.shape, f"{weight.name}: made {out.shape}, declared {weight.type}"
        return np.ascontiguousarray(out)
