"""A kernel while it is written: its parameters, in the order of their first use, and its lines."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Final

from graphllm.codegen.layout import Layout, Layouts
from graphllm.errors import PlanError
from graphllm.ir.core import Function, Operation, State, Value, Weight
from graphllm.ir.types import DType

C_TYPES: Final[dict[DType, str]] = {"f32": "float", "f16": "f16", "bf16": "bf16", "i8": "int8_t", "i32": "int32_t"}
INPUTS: Final = ("ids", "pos", "slot", "rows")  # of a step; every other value is in memory


@dataclass(slots=True)
class Parameter:
    """A pointer that a kernel is given: what it points to, and whether the kernel writes there."""

    root: Value
    name: str
    written: bool = False

    @property
    def declared(self) -> str:
        const = "" if self.written else "const "
        return f"{const}{C_TYPES[self.root.type.dtype]}* {self.name}"


@dataclass(slots=True)
class KernelText:
    """The body of one function, in C++ or CUDA, for the target of that name.

    ``live`` are values whose rows are the step's own, ``rows`` its most rows.
    """

    target: str
    function: Function
    layouts: Layouts
    live: frozenset[int]
    rows: int
    pointers: dict[int, Parameter] = field(default_factory=dict[int, Parameter])  # id(root) -> its pointer
    lines: list[str] = field(default_factory=list[str])
    shared: tuple[int, int] | None = None  # scratch of the arena that it needs beside, if any
    numbers: dict[str, int] = field(default_factory=dict[str, int])  # that a launch gives, by their names
    depth: int = 1

    @property
    def parameters(self) -> list[Parameter]:
        """What is read, then what is written, each in the order of its first use."""
        return sorted(self.pointers.values(), key=lambda p: p.written)

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    @contextmanager
    def block(self, head: str, end: str = "}") -> Generator[None]:
        """Lines inside braces."""
        self.line(f"{head} {{")
        self.depth += 1
        yield
        self.depth -= 1
        if end:
            self.line(end)

    def pointer(self, value: Value, role: str, *, written: bool = False) -> str:
        """The name of the pointer to a value's root; ``role`` is what it is called when it is new."""
        root = self.layouts.of(value).root
        if id(root) not in self.pointers:
            taken = {p.name for p in self.pointers.values()}
            names = (role, *(f"{role}{i}" for i in range(2, len(taken) + 3)))
            self.pointers[id(root)] = Parameter(root, next(n for n in names if n not in taken))
        parameter = self.pointers[id(root)]
        parameter.written |= written
        return parameter.name

    def number(self, role: str, number: int) -> str:
        """The name of a number that comes with a launch: kernels that differ in nothing else are one."""
        names = (role, *(f"{role}{i}" for i in range(2, len(self.numbers) + 3)))
        name = next(n for n in names if self.numbers.get(n, number) == number)
        self.numbers[name] = number
        return name

    def row(self, value: Value, role: str, index: str, *, dimensions: int = 1, written: bool = False) -> str:
        """The address of a row of a value: its last ``dimensions`` dimensions, which must lie in one piece."""
        layout = self.layouts.of(value)
        if not layout.rows(dimensions):
            raise PlanError(f"{value.ref}: lies in pieces; the {self.target} target has no code for that here")
        return address(self.pointer(value, role, written=written), layout, index, dimensions)

    def whole(self, value: Value, role: str, *, written: bool = False) -> str:
        """The address of a value that must lie in one piece."""
        return self.row(value, role, "0", dimensions=len(value.type.shape), written=written)

    def given(self, value: Value, index: str) -> str:
        """An element of one of the step's inputs."""
        if value.name not in INPUTS or not any(v is value for v in self.function.inputs):
            raise PlanError(f"{value.ref}: the {self.target} target takes row numbers only from the step's own inputs")
        return f"step.{value.name}[{index}]"

    def count(self, value: Value, per_row: int = 1) -> str:
        """How many rows of a value there are to compute, each of ``per_row`` pieces, as an expression."""
        if id(value) in self.live:
            return f"step.live * {per_row}" if per_row > 1 else "step.live"
        return str(value.type.shape[0] * per_row)

    def placing(self, op: Operation) -> tuple[str, str]:
        """Position and slot of row t. Raises PlanError unless they are the step's own."""
        for operand, name in zip(op.operands[-2:], ("pos", "slot"), strict=True):
            if operand.name != name or not any(v is operand for v in self.function.inputs):
                raise PlanError(
                    f"{op.name} giving {op.results[0].ref}: its {name} is {operand.ref}; expected the input %{name}"
                )
        return "step.pos[t]", "step.slot[t]"


def address(pointer: str, layout: Layout, index: str, dimensions: int = 1) -> str:
    """The address of a row of a window."""
    offset = layout.at(index, dimensions)
    return pointer if offset == "0" else f"{pointer} + {offset}"


def per_row(value: Value, dimensions: int = 1) -> int:
    """Pieces of the last ``dimensions`` dimensions in one row of a value."""
    return prod(value.type.shape[1:-dimensions])


def live_values(function: Function, rows: int) -> frozenset[int]:
    """Values of which row t belongs to row t of the step: those of blank rows need not be computed."""
    live = {id(v) for v in function.inputs if v.name in INPUTS[:3]}
    made = {id(v) for op in function.walk() for v in op.results}
    for op in function.walk():
        given = (v for v in op.operands if not isinstance(v, Weight | State) and id(v) not in made)
        live |= {id(v) for v in given if v.name not in INPUTS and _rows_of(v) == rows}
        if any(id(v) in live for v in op.operands[: 1 if op.name == "take_rows" else None]):
            live |= {id(v) for v in op.results if _rows_of(v) == rows and op.name != "take_rows"}
    return frozenset(live)


def _rows_of(value: Value) -> int:
    return value.type.shape[0] if value.type.shape else 0


def row_count(function: Function) -> int:
    """Rows of a step: one without positions of its own."""
    pos = next((v for v in function.inputs if v.name == "pos"), None)
    return pos.type.shape[0] if pos is not None and pos.type.shape else 1


def wrapped(head: str, items: Sequence[str], tail: str) -> str:
    """``head`` items ``tail``, broken into lines of at most 120 characters and indented as deep as the head."""
    indent = " " * (len(head) - len(head.lstrip()) + 8)
    lines, line = list[str](), head
    for i, item in enumerate(items):
        piece = item + (", " if i < len(items) - 1 else tail)
        if len(line) + len(piece.rstrip()) > 120:
            lines.append(line.rstrip())
            line = indent
        line += piece
    return "\n".join([*lines, line])


def printable(line: str) -> str:
    """The line as a comment: ASCII, and with no backslash, which would join the next line to it."""
    return line.encode("unicode_escape").decode("ascii").replace("\\", "/")
