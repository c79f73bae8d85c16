"""Where a function's values lie: memory, and how an index becomes an element of it.

Only roots own memory: a place in the arena, a weight, a cache, an input of the step. Every other value is a window on
one of them, with strides, as NumPy would have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from graphllm.errors import PlanError
from graphllm.ir.core import Function, Operation, State, Value, Weight
from graphllm.ir.opdef import lookup

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """A window on ``root``: element (i, j, …) lies ``offset + i * strides[0] + …`` elements into it."""

    root: Value
    offset: int
    shape: Shape
    strides: Shape

    @staticmethod
    def of(root: Value) -> Layout:
        """A whole root, row-major."""
        return Layout(root, 0, root.type.shape, row_major(root.type.shape))

    def split(self, sizes: Shape) -> list[Layout]:
        """Consecutive pieces of the last dimension."""
        return [
            Layout(self.root, self.offset + sum(sizes[:i]) * self.strides[-1], (*self.shape[:-1], n), self.strides)
            for i, n in enumerate(sizes)
        ]

    def reshape(self, shape: Shape) -> Layout | None:
        """The same elements under another shape, None where no strides can say it."""
        sizes = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n > 1]
        merged: list[tuple[int, int]] = []  # stretches of even stride, outermost first
        for n, s in sizes:
            if merged and merged[-1][1] == n * s:
                merged[-1] = (merged[-1][0] * n, s)
            else:
                merged.append((n, s))
        strides: list[int] = []
        left = 1  # elements of the innermost stretch that the dimensions so far have used up
        for n in reversed(shape):
            if n == 1:
                strides.append(0)  # of no meaning, but for the rows of a step, below
                continue
            if not merged or merged[-1][0] % (left * n):
                return None
            strides.append(merged[-1][1] * left)
            left *= n
            if left == merged[-1][0]:
                merged.pop()
                left = 1
        if shape[:1] == self.shape[:1]:
            strides[-1] = self.strides[0]  # a step of one row reads as those of more do
        return Layout(self.root, self.offset, shape, tuple(reversed(strides)))

    def rows(self, dimensions: int = 1) -> bool:
        """Whether the last ``dimensions`` dimensions lie in one piece."""
        inner = self.shape[-dimensions:]
        ones = [(n, s, w) for n, s, w in zip(inner, self.strides[-dimensions:], row_major(inner), strict=True) if n > 1]
        return all(s == w for _, s, w in ones)

    def at(self, row: str, dimensions: int = 1) -> str:
        """The element offset of row number ``row`` (an expression) of all but the last ``dimensions`` dimensions."""
        outer = list(zip(self.shape[:-dimensions], self.strides[:-dimensions], strict=True))
        merged: list[tuple[int, int]] = []
        for i, (n, s) in enumerate(outer):
            if n == 1 and i > 0:
                continue
            if merged and merged[-1][1] == n * s:
                merged[-1] = (merged[-1][0] * n, s)
            else:
                merged.append((n, s))
        terms = [str(self.offset)] if self.offset else []
        for i, (n, s) in enumerate(merged):
            inner = prod(m for m, _ in merged[i + 1 :])
            index = f"{row} / {inner}" if inner > 1 else row
            if i:
                index = f"({index}) % {n}" if inner > 1 else f"{index} % {n}"
            terms.append(f"{index} * {s}" if inner == 1 and not i else f"({index}) * {s}")
        return " + ".join(terms) or "0"


def row_major(shape: Shape) -> Shape:
    """Strides, in elements, of a tensor in one piece."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


class Layouts:
    """Of every value that an operation of a function reads from memory, or leaves there."""

    def __init__(self, function: Function) -> None:
        self._known: dict[int, Layout | None] = {id(v): Layout.of(v) for v in function.inputs}
        self._whose: dict[int, State] = {}  # id(later value of a state) -> the state
        for op in function.walk():
            self._enter(op)

    def _enter(self, op: Operation) -> None:
        entry = lookup(op.name)
        if entry.updates is not None:
            state = self.state(op.operands[entry.updates])
            if state is not None:
                self._whose[id(op.result)] = state
        elif entry.views is not None:
            source = self._known.get(id(v := op.operands[entry.views])) or self._root(v)
            windows: list[Layout | None] = [None] * len(op.results)
            if source is not None and op.name == "split":
                windows = list(source.split(op.attrs["sizes"]))  # type: ignore[arg-type]
            elif source is not None:
                windows = [source.reshape(op.result.type.shape)]
            self._known.update({id(v): w for v, w in zip(op.results, windows, strict=True)})

    def _root(self, value: Value) -> Layout | None:
        return Layout.of(value) if isinstance(value, Weight | State) or value.arena is not None else None

    def state(self, value: Value) -> State | None:
        """The state that a value is, or is a later value of."""
        return value if isinstance(value, State) else self._whose.get(id(value))

    def of(self, value: Value) -> Layout:
        """Raises PlanError for a value that lies nowhere, or in pieces."""
        if (state := self.state(value)) is not None:
            return Layout.of(state)
        found = self._known.get(id(value)) or self._root(value)
        if found is None:
            raise PlanError(f"{value.ref}: has no place in the arena to read it from")
        return found


def in_order(sizes: Shape) -> list[tuple[int, int]]:
    """(first, past the last) of consecutive stretches."""
    edges = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return list(pairwise(edges))
