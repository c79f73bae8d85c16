"""The nouns of the IR: values, operations, functions, modules. SSA, typed, immutable.

A pass never edits these; it builds new ones. Values compare by identity, modules by structure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from graphllm.ir.types import TensorType

Attr: TypeAlias = int | float | bool | str | tuple[int, ...]
Attrs: TypeAlias = Mapping[str, Attr]

KERNEL: Final = "kernel"  # the one operation that is not in the table: it holds others


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """Something an operation can read: a function input or an operation's result, printed ``%name``.

    ``arena`` is the byte offset that plan_memory chose, None before it ran and for views of other values.
    """

    name: str
    type: TensorType
    arena: int | None = None

    @property
    def ref(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, eq=False, slots=True)
class Weight(Value):
    """A constant, printed ``@name``, never inline. Either a checkpoint tensor or computed from other weights once.

    ``source`` is the checkpoint's own name for it (any string); ``definition`` the operation that makes it, whose
    operands are weights and whose single result carries this weight's name.
    """

    source: str = ""
    definition: Operation | None = None

    @property
    def ref(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True, eq=False, slots=True)
class State(Value):
    """Memory that outlives a step (the KV cache), printed ``@name``; a function reads it and says what it becomes."""

    @property
    def ref(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True, slots=True)
class Region:
    """The body of a kernel: ordinary operations that see every value defined before it, and what they hand out."""

    ops: tuple[Operation, ...]
    results: tuple[Value, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Operation:
    """One application of an entry of the op table, or a kernel.

    A kernel (``name == "kernel"``) holds a region; its operands are every non-constant outer value the region reads,
    in order of first use, and ``template`` says which of the target's templates carries it. ``scratch`` is working
    memory it needs beside its results: (arena offset, bytes).
    """

    name: str
    operands: tuple[Value, ...]
    attrs: Attrs
    results: tuple[Value, ...]
    body: Region | None = None
    template: str = ""
    scratch: tuple[int, int] | None = None

    @property
    def result(self) -> Value:
        assert len(self.results) == 1, f"{self.name} has {len(self.results)} results"
        return self.results[0]


RowOrder = Literal["independent", "consecutive"]


@dataclass(frozen=True, eq=False, slots=True)
class Function:
    """One step of a fixed number of rows.

    ``rows`` says what the caller promises about them: ``consecutive`` rows are successive positions of one slot.
    ``updates`` are the states' new values at the end of the step; ``arena`` the bytes of activation memory, once
    planned.
    """

    name: str
    inputs: tuple[Value, ...]
    ops: tuple[Operation, ...]
    results: tuple[Value, ...]
    updates: tuple[tuple[State, Value], ...] = ()
    rows: RowOrder = "independent"
    arena: int | None = None

    def walk(self) -> Iterator[Operation]:
        """Every table operation in program order, those inside kernels included and the kernels themselves not."""
        for op in self.ops:
            if op.body is not None:
                yield from op.body.ops
            else:
                yield op


@dataclass(frozen=True, eq=False, slots=True)
class Module:
    """Weights, states and the functions that share them. Dictionaries are keyed by name and keep their order."""

    weights: Mapping[str, Weight] = field(default_factory=dict[str, Weight])
    states: Mapping[str, State] = field(default_factory=dict[str, State])
    functions: Mapping[str, Function] = field(default_factory=dict[str, Function])

    def stored_weights(self) -> list[Weight]:
        """The weights some function reads: what a plan must hold. Sources of definitions are not among them."""
        used = {id(v) for f in self.functions.values() for op in f.walk() for v in op.operands}
        used |= {id(v) for f in self.functions.values() for v in f.results}
        return [w for w in self.weights.values() if id(w) in used]

    def __eq__(self, other: object) -> bool:
        from graphllm.ir.printer import print_module

        return isinstance(other, Module) and print_module(self) == print_module(other)

    __hash__ = None  # type: ignore[assignment]  # equal by structure, so not hashable
