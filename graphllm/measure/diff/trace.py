"""What one way of computing a model gave at every point, and the IR behind it where there is some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import RunError
from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.measure.diff.points import point_of

Array = NDArray[Any]
Floats = NDArray[np.float32]
Kind = Literal["score", "decode", "prefill"]


@dataclass(frozen=True, slots=True)
class Source:
    """The module that was run, the function, and its weights."""

    module: Module
    function: Function
    read: Callable[[Weight], Array]

    def maker(self, point: str) -> Operation | None:
        """The operation that makes a point's value, the last one where several values are the point."""
        found = [op for op in self.function.walk() for v in op.results if point_of(v.name) == point]
        return found[-1] if found else None


@dataclass(slots=True)
class Trace:
    """Values f32 [T, …] by point, in the order they were computed.

    Attributes:
        name: of the way of computing, for people.
        noise: relative error that its number formats alone may cause (f16 caches, int8 …).
        source: what was run, None for values that came from elsewhere.
    """

    name: str
    noise: float
    source: Source | None = None
    values: dict[str, Floats] = field(default_factory=dict[str, Floats])

    def add(self, point: str, rows: Array) -> None:
        """More rows of a point."""
        rows = np.asarray(rows, np.float32).reshape(len(rows), -1)
        known = self.values.get(point)
        self.values[point] = np.array(rows) if known is None else np.concatenate([known, rows])


@dataclass(frozen=True, slots=True)
class Call:
    """One step of a function with some live rows at successive positions."""

    function: Function
    tokens: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        return self.function.inputs[0].type.shape[0]

    def inputs(self) -> dict[str, NDArray[np.int32]]:
        """As every device fills them: rows that are not there have position -1."""
        live, n = len(self.tokens), self.count
        ids, pos, slot = np.zeros(n, np.int32), np.full(n, -1, np.int32), np.zeros(n, np.int32)
        ids[:live], pos[:live] = self.tokens, np.arange(self.start, self.start + live)
        return {"ids": ids, "pos": pos, "slot": slot, "rows": np.array([live - 1], np.int32)}

    def live_rows(self, value: Value, array: Array) -> Array | None:
        """The rows of an array that belong to live rows; None for what is no value of rows."""
        shape = value.type.shape
        if not shape or shape[0] not in (1, self.count):
            return None
        return array[: len(self.tokens)] if shape[0] == self.count else array


def calls(module: Module, kind: Kind, ids: Sequence[int]) -> Iterator[Call]:
    """The steps that take the ids, in a function of a kind. Raises RunError where the module has none."""
    sizes = {f.inputs[0].type.shape[0]: f for f in module.functions.values() if f.name.split("_")[0] == kind}
    if kind == "decode":
        sizes = {1: module.functions["decode"]}
    if not sizes:
        raise RunError(f"diff: this model has no function {kind}_N; it has {', '.join(module.functions)}")
    context = next(iter(module.states.values())).type.shape[2]
    if not 0 < len(ids) <= context:
        raise RunError(f"diff: {len(ids)} tokens; expected 1 to {context}, the context")
    vocab = next(iter(module.functions.values())).results[0].type.shape[-1]
    bad = next((t for t in ids if not 0 <= t < vocab), None)
    if bad is not None:
        raise RunError(f"diff: token {bad}: not in the vocabulary; expected 0 to {vocab - 1}")
    size = min((n for n in sizes if n >= len(ids)), default=max(sizes))
    for start in range(0, len(ids), size):
        yield Call(sizes[size], tuple(ids[start : start + size]), start)


def noise_of(module: Module) -> float:
    """The relative error that number formats of a module may cause beside f32 arithmetic on the same weights."""
    worst = 0.0
    for state in module.states.values():
        worst = max(worst, {"f16": 2e-3, "i8": 5e-2}.get(state.type.dtype, 0.0))
    for function in module.functions.values():
        for op in function.walk():
            if op.name == "quantize_rows":
                of_cache = op.results[0].name.endswith((".k.int8", ".v.int8"))
                worst = max(worst, 5e-2 if of_cache else 0.1)
            elif op.name == "cast" and not isinstance(op.operands[0], Weight) and op.result.type.dtype != "f32":
                worst = max(worst, 2e-2)
    return worst


def formats(module: Module) -> Mapping[str, str]:
    """Stored matrices by the name they go back to, with the dtype they are stored in."""
    out: dict[str, str] = {}
    for weight in module.stored_weights():
        if len(weight.type.shape) == 2:
            out[base_name(weight)] = weight.type.dtype
    return out


def base_name(weight: Weight) -> str:
    """The name without what rounding adds to it."""
    definition = weight.definition
    if definition is not None and definition.name in ("quantize_groups", "cast"):
        return definition.operands[0].name
    return weight.name
