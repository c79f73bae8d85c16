"""Arrays to run modules on, random ones first, and steps on them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.ir.core import Function, Module, Weight
from graphllm.ir.interpreter import apply, interpret
from graphllm.ir.types import TensorType
from tests.random_ir import TABLE_ROWS

Array = NDArray[Any]


def random_array(type_: TensorType, seed: str) -> Array:
    """Values of the type that follow from the seed alone."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    if type_.dtype == "i8":
        return rng.integers(-127, 128, type_.shape, dtype=np.int8)
    return (rng.standard_normal(type_.shape) * 0.6).astype(type_.numpy)


class Weights:
    """Reads any weight of a module: random data for a checkpoint's tensor, its definition's value for a computed one.

    ``wide``: what is of type f32 is computed and given in float64.
    """

    def __init__(self, tensors: Mapping[str, Array] | None = None, *, wide: bool = False) -> None:
        self.tensors, self.wide = tensors, wide
        self.known: dict[str, Array] = {}

    def __call__(self, weight: Weight) -> Array:
        key = _spelled(weight)
        if key not in self.known:
            if weight.definition is not None:
                operands = [self(v) for v in weight.definition.operands if isinstance(v, Weight)]
                (array,) = apply(weight.definition, operands)
            elif self.tensors is not None:
                array = self.tensors[weight.name]
            else:
                array = random_array(weight.type, weight.name)
            dtype = np.dtype(np.float64) if self.wide and weight.type.dtype == "f32" else weight.type.numpy
            assert array.shape == weight.type.shape
            assert array.dtype == dtype or self.wide
            self.known[key] = array.astype(dtype, copy=False)
        return self.known[key]


def _spelled(weight: Weight) -> str:
    op = weight.definition
    if op is None:
        return weight.name
    return f"{op.name}({','.join(_spelled(v) for v in op.operands if isinstance(v, Weight))}){dict(op.attrs)}"


def random_inputs(function: Function, module: Module, seed: int) -> dict[str, Array]:
    """Arrays for a random module's function: ids and rows in range, positions from -1 (a blank) up, slots apart."""
    rng = np.random.default_rng(seed)
    caches = [s.type.shape for s in module.states.values()]
    slots, context = min((s[0] for s in caches), default=1), min((s[2] for s in caches), default=4)
    t = next(v.type.shape[0] for v in function.inputs if v.name == "ids")
    out: dict[str, Array] = {}
    for v in function.inputs:
        n = v.type.shape[0]
        match v.name:
            case "ids":
                out[v.name] = rng.integers(0, TABLE_ROWS, n, dtype=np.int32)
            case "pos":
                out[v.name] = rng.integers(-1, context, n, dtype=np.int32)
            case "slot":
                out[v.name] = rng.integers(0, slots, n, dtype=np.int32)
            case "rows":
                out[v.name] = rng.integers(0, t, n, dtype=np.int32)
            case _:
                out[v.name] = rng.standard_normal(v.type.shape).astype(np.float32)
    return out


def fresh_states(module: Module, fill: float = 0.0) -> dict[str, Array]:
    return {n: np.full(s.type.shape, fill, s.type.numpy) for n, s in module.states.items()}


Outcome = tuple[list[list[Array]], dict[str, Array]]  # results of each step, states at the end


def run_steps(module: Module, weights: Weights, seed: int, *, wide: bool = False) -> Outcome:
    """Every function twice in turn, on random inputs, over one set of states that starts from zeros."""
    states = fresh_states(module)
    if wide:
        states = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in states.items()}
    results: list[list[Array]] = []
    with np.errstate(all="ignore"):
        for i, function in enumerate((*module.functions.values(),) * 2):
            inputs = random_inputs(function, module, seed * 10 + i)
            out, states = interpret(function, inputs, weights, states, wide=wide)
            results.append(out)
    return results, states


def plain(array: Array) -> Array:
    """Narrow floats as float64, so that NumPy can compare them."""
    return array.astype(np.float64) if array.dtype in (ml_dtypes.bfloat16, np.float16) else array
