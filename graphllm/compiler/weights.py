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
    """``reader(weight)``: the weight's array, made afresh by every call; ``source`` reads a checkpoint's own."""

    def __init__(self, source: Callable[[Weight], Array]) -> None:
        self._source = source

    def __call__(self, weight: Weight) -> Array:
        if weight.definition is None:
            return self._source(weight)
        operands: list[Array] = []
        for v in weight.definition.operands:
            assert isinstance(v, Weight)
            operands.append(self(v))
        (out,) = apply(weight.definition, operands)
        assert out.shape == weight.type.shape, f"{weight.name}: made {out.shape}, declared {weight.type}"
        return np.ascontiguousarray(out)
