"""Values by the meaning of the IR: every operation by its NumPy reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.core import Module, Value, Weight
from graphllm.ir.interpreter import interpret
from graphllm.measure.diff.points import point_of
from graphllm.measure.diff.trace import Kind, Source, Trace, calls, noise_of

Array = NDArray[Any]


def interpreted(name: str, module: Module, read: Callable[[Weight], Array], ids: Sequence[int], kind: Kind) -> Trace:
    """Interpret a module on some tokens. ``read`` gives a weight's array, of its type."""
    known: dict[str, Array] = {}

    def fetch(weight: Weight) -> Array:
        if weight.name not in known:
            known[weight.name] = read(weight)
        return known[weight.name]

    states: dict[str, Array] = {s.name: np.zeros(s.type.shape, s.type.numpy) for s in module.states.values()}
    trace: Trace | None = None
    with np.errstate(all="ignore"):
        for call in calls(module, kind, ids):
            trace = trace or Trace(name, noise_of(module), Source(module, call.function, fetch))
            seen: dict[str, tuple[Value, Array]] = {}

            def watch(value: Value, array: Array, seen: dict[str, tuple[Value, Array]] = seen) -> None:
                point = point_of(value.name)
                if point is not None:
                    seen[point] = value, array

            _, states = interpret(call.function, call.inputs(), fetch, states, watch=watch)
            for point, (value, array) in seen.items():
                rows = call.live_rows(value, array)
                if rows is not None:
                    trace.add(point, rows)
    assert trace is not None
    return trace
