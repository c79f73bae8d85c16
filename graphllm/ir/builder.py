"""Builds functions: infers types, makes names unique. Inside its ``with`` block, calling an op on values records it."""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import Token
from types import TracebackType

from graphllm.ir.core import KERNEL, Attrs, Function, Operation, Region, RowOrder, State, Value, Weight
from graphllm.ir.opdef import RECORDER, Recorder, lookup
from graphllm.ir.types import TensorType


class Builder:
    """Collects the operations of one function in order."""

    def __init__(self) -> None:
        self.ops: list[Operation] = []
        self._inputs: list[Value] = []
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}
        self.hints: dict[int, str] = {}  # id(value) -> the name it asked for and could not have
        self._tokens: list[Token[Recorder | None]] = []

    def __enter__(self) -> Builder:
        self._tokens.append(RECORDER.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        RECORDER.reset(self._tokens.pop())

    def input(self, name: str, type: TensorType) -> Value:
        """The function's next input."""
        value = Value(self._unique(name), type)
        self._inputs.append(value)
        return value

    def emit(self, name: str, operands: Iterable[Value], attrs: Attrs, hint: str = "") -> tuple[Value, ...]:
        """Append a table operation; ``hint`` names its result (several, separated by commas). Raises VerifyError."""
        entry = lookup(name)
        operands = tuple(operands)
        attrs = entry.complete(attrs)
        types = entry.result_types(tuple(v.type for v in operands), attrs)
        hints = hint.split(",") if hint else [name]
        if len(hints) != len(types):
            hints = [f"{hints[0]}.{i}" for i in range(len(types))]
        results = tuple(Value(self._unique(h), t) for h, t in zip(hints, types, strict=True))
        self.hints.update({id(v): h for v, h in zip(results, hints, strict=True) if v.name != h})
        self.ops.append(Operation(name, operands, attrs, results))
        return results

    def append(self, op: Operation) -> None:
        """Append an operation as it stands; its results' names must be free."""
        self._taken.update(v.name for v in op.results)
        if op.body is not None:
            self._taken.update(v.name for inner in op.body.ops for v in inner.results)
        self.ops.append(op)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep these names from being given to new values."""
        self._taken.update(names)

    def function(
        self,
        name: str,
        results: Iterable[Value],
        updates: Iterable[tuple[State, Value]] = (),
        rows: RowOrder = "independent",
    ) -> Function:
        """The finished function."""
        return Function(name, tuple(self._inputs), tuple(self.ops), tuple(results), tuple(updates), rows)

    def _unique(self, hint: str) -> str:
        name = hint
        while name in self._taken:
            self._next[hint] = self._next.get(hint, 0) + 1
            name = f"{hint}_{self._next[hint]}"
        self._taken.add(name)
        return name


def kernel(
    template: str, ops: Iterable[Operation], results: Iterable[Value], scratch: tuple[int, int] | None = None
) -> Operation:
    """A kernel operation around ``ops``; ``results`` are the inner values it hands out.

    Inside and outside a result is one and the same Value: a kernel's region is a stretch of its function, not a
    function of its own.
    """
    body = Region(tuple(ops), tuple(results))
    inner = {id(v) for op in body.ops for v in op.results}
    operands: dict[int, Value] = {}
    for op in body.ops:
        for v in op.operands:
            if id(v) not in inner and not isinstance(v, Weight):
                operands.setdefault(id(v), v)
    return Operation(KERNEL, tuple(operands.values()), {}, body.results, body, template, scratch)
