"""What follows from weights alone is computed once, while the plan is written: it becomes a weight with a definition.

Nothing is folded that would make the plan bigger (a dequantised matrix, a widened one), so conversions of matrices stay
where they are used. Equal constants of different functions become one weight.

before:
    weight @a : f32[2,6]
    weight @b : f32[4,6]
    func @f(%x: f32[1,6]) {
      %w = concat @a, @b : f32[6,6]
      %y = linear %x, %w : f32[1,6]
      return %y
    }
after:
    weight @a : f32[2,6]
    weight @b : f32[4,6]
    weight @w : f32[6,6] = concat @a, @b
    func @f(%x: f32[1,6]) {
      %y = linear %x, @w : f32[1,6]
      return %y
    }
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.passes.rewrite import rebuild, remap


class Lifter:
    """Turns operations over weights into weights, each distinct one once for the whole module."""

    def __init__(self, module: Module) -> None:
        self.weights = dict(module.weights)
        self._states = module.states
        self._known: dict[tuple[object, ...], Weight] = {}
        for w in self.weights.values():
            if w.definition is not None:
                self._known[_key(w.definition)] = w

    def lift(self, op: Operation) -> Weight:
        """The weight that ``op`` defines."""
        key = _key(op)
        if key not in self._known:
            name = self._unique(op.result.name)
            definition = replace(op, results=(Value(name, op.result.type),))
            self.weights[name] = self._known[key] = Weight(name, op.result.type, None, "", definition)
        return self._known[key]

    def _unique(self, hint: str) -> str:
        name, n = hint, 0
        while name in self.weights or name in self._states:
            n += 1
            name = f"{hint}_{n}"
        return name


def fold(module: Module) -> Module:
    """Lift every constant operation that does not grow what it reads."""
    lifter = Lifter(module)
    functions = {name: _fold(f, lifter) for name, f in module.functions.items()}
    return replace(module, weights=lifter.weights, functions=functions)


def _fold(function: Function, lifter: Lifter) -> Function:
    mapping: dict[int, Value] = {}
    kept: list[Operation] = []
    for op in function.ops:
        op = remap(op, mapping)
        if _foldable(op):
            mapping[id(op.result)] = lifter.lift(op)
        else:
            kept.append(op)
    return rebuild(function, kept, mapping)


def _foldable(op: Operation) -> bool:
    if op.body is not None or len(op.results) != 1 or not all(isinstance(v, Weight) for v in op.operands):
        return False
    vector = len(op.result.type.shape) == 1  # of norms and biases: widened for good, they are too small to matter
    return not op.operands or vector or op.result.type.bytes <= _bytes(op.operands)


def _bytes(values: Iterable[Value]) -> int:
    return sum(v.type.bytes for v in values)


def _key(op: Operation) -> tuple[object, ...]:
    return (op.name, tuple(v.name for v in op.operands), tuple(op.attrs.items()))
