"""The rules of the language, checked after every pass and again when a plan is loaded.

Types follow from operands; a value is defined before it is used and only where it can be seen; names are unique;
state is used linearly (once overwritten, the old value is gone) and every overwritten state is handed back; arena
ranges lie inside the arena and two values alive at once share memory only where one is a window on the other or
takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from graphllm.errors import VerifyError
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.lifetime import Lifetimes
from graphllm.ir.opdef import lookup
from graphllm.ir.types import TensorType


def verify(module: Module) -> None:
    """Raise VerifyError, naming function and operation, at the first broken rule."""
    for name, weight in module.weights.items():
        _weight(module, name, weight)
    for name, state in module.states.items():
        if state.name != name or name in module.weights:
            raise VerifyError(f"state @{name}: its name is not its own")
    for name, function in module.functions.items():
        if function.name != name:
            raise VerifyError(f"func @{name}: is called {function.name}")
        _Checker(module, function).check()


def _weight(module: Module, name: str, weight: Weight) -> None:
    if weight.name != name:
        raise VerifyError(f"weight @{name}: is called {weight.name}")
    op = weight.definition
    if op is None:
        return
    for operand in op.operands:
        if not isinstance(operand, Weight) or module.weights.get(operand.name) is not operand:
            raise VerifyError(f"weight @{name}: its definition reads {operand.ref}; expected a weight of this module")
        if operand.name == name:
            raise VerifyError(f"weight @{name}: is defined by itself")
    if _types(f"weight @{name}", op) != (weight.type,):
        raise VerifyError(f"weight @{name}: its definition does not give {weight.type}")


def _types(where: str, op: Operation) -> tuple[TensorType, ...]:
    try:
        entry = lookup(op.name)
        return entry.result_types(tuple(v.type for v in op.operands), entry.complete(op.attrs))
    except VerifyError as error:
        raise VerifyError(f"{where}: {error}") from None


class _Checker:
    def __init__(self, module: Module, function: Function) -> None:
        self.module, self.function = module, function
        self.where = f"func @{function.name}"
        self.visible: set[int] = set()
        self.names: set[str] = set()
        self.root: dict[int, State] = {}  # a state's successive values -> the state
        self.spent: dict[int, Operation] = {}  # values a later one has overwritten

    def fail(self, message: str) -> NoReturn:
        raise VerifyError(f"{self.where}: {message}")

    def check(self) -> None:
        for value in self.function.inputs:
            self.define(value)
        for op in self.function.ops:
            if op.body is None:
                self.operation(op)
                continue
            outer = set(self.visible)
            for inner in op.body.ops:
                if inner.body is not None:
                    self.fail("kernels do not nest")
                self.operation(inner)
            self.kernel(op, outer)
        self.ends()
        if self.function.arena is not None:
            self.arena(self.function.arena)

    def define(self, value: Value) -> None:
        if value.name in self.names:
            self.fail(f"{value.ref} is defined twice")
        self.names.add(value.name)
        self.visible.add(id(value))

    def seen(self, op_name: str, value: Value) -> None:
        if isinstance(value, Weight):
            if self.module.weights.get(value.name) is not value:
                self.fail(f"{op_name}: {value.ref} is not a weight of this module")
        elif isinstance(value, State):
            if self.module.states.get(value.name) is not value:
                self.fail(f"{op_name}: {value.ref} is not a state of this module")
        elif id(value) not in self.visible:
            self.fail(f"{op_name}: {value.ref} is used before it is defined, or outside its kernel")
        if (by := self.spent.get(id(value))) is not None:
            self.fail(f"{op_name}: {value.ref} was overwritten by {by.name} giving {by.result.ref}; read that instead")

    def operation(self, op: Operation) -> None:
        for value in op.operands:
            self.seen(op.name, value)
        types = _types(self.where, op)
        if types != tuple(v.type for v in op.results):
            got = ", ".join(str(v.type) for v in op.results)
            self.fail(f"{op.name}: expected {', '.join(map(str, types))}, got {got}")
        target = lookup(op.name).updates
        if target is not None:
            old = op.operands[target]
            state = old if isinstance(old, State) else self.root.get(id(old))
            if state is None:
                self.fail(f"{op.name}: {old.ref} is not a state; only a state can be overwritten")
            else:
                self.root[id(op.result)] = state
                self.spent[id(old)] = op
        for value in op.results:
            self.define(value)

    def kernel(self, op: Operation, outer: set[int]) -> None:
        assert op.body is not None
        inner = {id(v) for o in op.body.ops for v in o.results}
        reads = {id(v): v for o in op.body.ops for v in o.operands if id(v) not in inner and not isinstance(v, Weight)}
        if list(reads) != [id(v) for v in op.operands]:
            self.fail(f'kernel "{op.template}": its operands are not what its body reads')
        if op.results != op.body.results or not op.results or any(id(v) not in inner for v in op.results):
            self.fail(f'kernel "{op.template}": its results are not its body\'s')
        self.visible = outer | {id(v) for v in op.results}

    def ends(self) -> None:
        for value in self.function.results:
            self.seen("return", value)
        written = {id(s): s for s in self.root.values()}
        for state, value in self.function.updates:
            self.seen(f"return {state.ref}", value)
            if self.root.get(id(value)) is not state:
                self.fail(f"return: {value.ref} is not a later value of {state.ref}")
            if written.pop(id(state), None) is None:
                self.fail(f"return: {state.ref} is handed back twice")
        for state in written.values():
            self.fail(f"return: {state.ref} was overwritten and is not handed back")

    def arena(self, size: int) -> None:
        lifetimes = Lifetimes.of(self.function)
        allowed = {(id(t.old), id(t.new)) for t in lifetimes.takeovers if t.old.root.arena == t.new.root.arena}
        windows = {id(v) for v in self.lifeless(lifetimes)}
        for op in self.function.walk():
            for value in op.results:
                if id(value) in windows and value.arena is not None:
                    self.fail(f"{value.ref} has a place in the arena; a window on other memory has none")
        used: list[_Used] = []
        for block in lifetimes.blocks:
            offset = block.root.arena
            if offset is not None:
                used.append(_Used(block.root.ref, offset, block.bytes, block.first, block.last, id(block)))
            elif not block.inner:
                self.fail(f"{block.root.ref} has no place in the arena")
        for first, last, op in lifetimes.scratch:
            assert op.scratch is not None
            used.append(_Used(f"scratch of {op.results[0].ref}", *op.scratch, first, last, 0))
        used.sort(key=lambda u: u.first)
        alive: list[_Used] = []  # sweep over time: whoever is in use at once must not overlap
        for new in used:
            if new.offset < 0 or new.offset % 64 or new.bytes < 0 or new.offset + new.bytes > size:
                self.fail(
                    f"{new.what} takes {new.bytes} bytes in arena+{new.offset}; expected a multiple of 64 inside {size}"
                )
            alive = [old for old in alive if old.last >= new.first]
            for old in alive:
                overlap = old.offset < new.offset + new.bytes and new.offset < old.offset + old.bytes
                if overlap and (old.block, new.block) not in allowed:
                    self.fail(f"{old.what} and {new.what} are in use at once and overlap in the arena")
            alive.append(new)

    def lifeless(self, lifetimes: Lifetimes) -> Iterator[Value]:
        """Results that own no arena memory: windows and states' later values."""
        roots = {id(b.root) for b in lifetimes.blocks}
        return (v for op in self.function.walk() for v in op.results if id(v) not in roots)


class _Used(NamedTuple):
    """A stretch of the arena and the time it is in use."""

    what: str
    offset: int
    bytes: int
    first: int
    last: int
    block: int  # identity of its block, 0 for scratch
