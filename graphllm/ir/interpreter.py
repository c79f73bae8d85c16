"""Runs IR by its meaning: each operation by its NumPy reference, slowly. The oracle of every pass and backend.

``wide=True`` computes everything of type f32 in float64 and so gives a reference of higher precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.core import Function, Operation, Value, Weight
from graphllm.ir.opdef import lookup

Array = NDArray[Any]
ReadWeight = Callable[[Weight], Array]


def interpret(
    function: Function,
    inputs: Mapping[str, Array],
    read_weight: ReadWeight,
    states: Mapping[str, Array],
    *,
    wide: bool = False,
    watch: Callable[[Value, Array], None] | None = None,
) -> tuple[list[Array], dict[str, Array]]:
    """Results of one step and the states' new values; ``states`` itself is not changed.

    Args:
        inputs: one array of the input's type for each input, by name.
        read_weight: a checkpoint tensor or a computed weight, of the weight's type.
        states: by name, of the state's type (float64 where it is f32 and ``wide``).
        watch: called with every value as it is computed.
    """
    env: dict[int, Array] = {id(v): _as_type(inputs[v.name], v, wide) for v in function.inputs}

    def fetch(value: Value) -> Array:
        if id(value) not in env:
            if isinstance(value, Weight):
                env[id(value)] = _as_type(read_weight(value), value, wide)
            else:
                env[id(value)] = states[value.name]
        return env[id(value)]

    for op in function.walk():
        for value, array in zip(op.results, apply(op, [fetch(v) for v in op.operands]), strict=True):
            env[id(value)] = _as_type(array, value, wide)
            if watch is not None:
                watch(value, env[id(value)])
    updates = {state.name: fetch(value) for state, value in function.updates}
    return [fetch(v) for v in function.results], {**states, **updates}


def apply(op: Operation, operands: list[Array]) -> tuple[Array, ...]:
    """The operation's reference on arrays."""
    out: Array | tuple[Array, ...] = lookup(op.name).reference(*operands, **op.attrs)
    return out if isinstance(out, tuple) else (out,)


def _as_type(array: Array, value: Value, wide: bool) -> Array:
    if value.type.dtype == "f32":
        return array.astype(np.float64 if wide else np.float32, copy=False)
    return array
