"""The op table's mechanism: a decorated NumPy reference is the schema, the meaning and the tracer of an operation.

    @op(infer=_same, cost=_elementwise, reuses=(0,))
    def silu(x): ...

Positional parameters are operands (``*xs`` for any number), keyword-only ones are attributes. Called with arrays the
entry computes; called with IR values it records itself into the builder whose ``with`` block is open.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from graphllm.errors import VerifyError
from graphllm.ir.core import Attr, Attrs, Value
from graphllm.ir.types import TensorType


class Recorder(Protocol):
    """What tracing needs of a builder."""

    def emit(self, name: str, operands: tuple[Value, ...], attrs: Attrs, hint: str = "") -> tuple[Value, ...]: ...


RECORDER: Final[ContextVar[Recorder | None]] = ContextVar("graphllm_recorder", default=None)

Infer = Callable[..., TensorType | tuple[TensorType, ...]]  # (*types, **attrs)
Cost = Callable[[tuple[TensorType, ...], Attrs], int]  # operand types, attributes -> flops; bytes follow from types


@dataclass(frozen=True, slots=True)
class Parameter:
    """An attribute of an operation: its Python type and, where it may be left out, its default."""

    kind: str  # "int" | "float" | "bool" | "str" | "ints"
    default: Attr | None


@dataclass(frozen=True, slots=True)
class OpDef:
    """A row of the op table.

    ``updates``: operand that result 0 overwrites in place, always (a state). ``views``: operand whose memory every
    result is a window on. ``reuses``: operands whose memory result 0 may take over, when their type is the result's,
    nothing reads them later and no other operand lies in that memory.
    """

    name: str
    reference: Callable[..., Any]
    infer: Infer
    cost: Cost
    operands: int  # least number of operands
    variadic: bool
    attrs: Mapping[str, Parameter]
    updates: int | None
    views: int | None
    reuses: tuple[int, ...]

    def __call__(self, *operands: Any, name: str = "", **attrs: Any) -> Any:
        """Record when any operand is an IR value (or none is and a builder is open), compute otherwise."""
        recorder = RECORDER.get()
        if any(isinstance(x, Value) for x in operands) or (not operands and recorder is not None):
            if recorder is None:
                raise VerifyError(f"{self.name}: recorded outside a builder; open one with `with Builder():`")
            results = recorder.emit(self.name, operands, attrs, name)
            return results[0] if len(results) == 1 else results
        return self.reference(*operands, **attrs)

    def complete(self, attrs: Attrs) -> dict[str, Attr]:
        """Attributes in schema order with defaults filled in. Raises VerifyError on unknown, missing or mistyped."""
        for key in attrs:
            if key not in self.attrs:
                raise VerifyError(f"{self.name}: unknown attribute {key}; expected {', '.join(self.attrs) or 'none'}")
        out: dict[str, Attr] = {}
        for key, parameter in self.attrs.items():
            value = attrs.get(key, parameter.default)
            if value is None:
                raise VerifyError(f"{self.name}: missing attribute {key}; expected {_EXPECTED[parameter.kind]}")
            out[key] = _coerce(self.name, key, value, parameter.kind)
        return out

    def result_types(self, types: tuple[TensorType, ...], attrs: Attrs) -> tuple[TensorType, ...]:
        """Types of the results. Raises VerifyError in words when the operands do not fit."""
        if len(types) < self.operands or (len(types) > self.operands and not self.variadic):
            raise VerifyError(f"{self.name}: wrong number of operands; expected {self.operands}, got {len(types)}")
        inferred = self.infer(*types, **attrs)
        return inferred if isinstance(inferred, tuple) else (inferred,)


OPS: Final[dict[str, OpDef]] = {}


def op(
    *,
    infer: Infer,
    cost: Cost = lambda types, attrs: 0,
    updates: int | None = None,
    views: int | None = None,
    reuses: tuple[int, ...] = (),
) -> Callable[[Callable[..., Any]], OpDef]:
    """Enter the decorated NumPy reference into the table under its own name."""

    def enter(reference: Callable[..., Any]) -> OpDef:
        parameters = inspect.signature(reference).parameters.values()
        attrs = {
            p.name: Parameter(_KINDS[str(p.annotation)], None if p.default is p.empty else p.default)
            for p in parameters
            if p.kind is p.KEYWORD_ONLY
        }
        entry = OpDef(
            name=reference.__name__,
            reference=reference,
            infer=infer,
            cost=cost,
            operands=sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters),
            variadic=any(p.kind is p.VAR_POSITIONAL for p in parameters),
            attrs=attrs,
            updates=updates,
            views=views,
            reuses=reuses,
        )
        OPS[entry.name] = entry
        return entry

    return enter


def lookup(name: str) -> OpDef:
    """The table's entry. Raises VerifyError for an operation that does not exist."""
    entry = OPS.get(name)
    if entry is None:
        raise VerifyError(f"unknown operation {name}; known ones are {', '.join(sorted(OPS))}")
    return entry


_KINDS: Final = {"int": "int", "float": "float", "bool": "bool", "str": "str", "tuple[int, ...]": "ints"}
_EXPECTED: Final = {
    "int": "an integer",
    "float": "a finite number",
    "bool": "true or false",
    "str": "a string",
    "ints": "a list of integers",
}


def _coerce(op_name: str, key: str, value: object, kind: str) -> Attr:
    match kind:
        case "int" if isinstance(value, int) and not isinstance(value, bool):
            return value
        case "float" if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        case "bool" if isinstance(value, bool):
            return value
        case "str" if isinstance(value, str):
            return value
        case "ints" if isinstance(value, (tuple, list)):
            items = tuple(cast("tuple[object, ...] | list[object]", value))
            if all(isinstance(i, int) and not isinstance(i, bool) for i in items):
                return cast("tuple[int, ...]", items)
        case _:
            pass
    raise VerifyError(f"{op_name}: attribute {key}; expected {_EXPECTED[kind]}, got {value!r}")
