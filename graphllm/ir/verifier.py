"""The rules of the language, checked after every pass and again when a plan is loaded.

Types follow from operands; a value is defined before it is used and only where it can be seen; names are unique and
can be printed; state is used linearly (once overwritten, the old value and every window on it are gone) and every
overwritten state is handed back; arena ranges lie inside the arena and two values alive at once share memory only
where one is a window on the other or takes its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple, NoReturn

from graphllm.errors import VerifyError
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.lifetime import ALIGNMENT, Lifetimes, owns_memory
from graphllm.ir.opdef import lookup
from graphllm.ir.types import NUMPY_DTYPES, TensorType

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")


def verify(module: Module) -> None:
    """Raise VerifyError, naming function and operation, at the first broken rule."""
    earlier: dict[str, Weight] = {}
    inference = _Inference()
    for name, weight in module.weights.items():
        _global("weights", name, weight)
        if weight.definition is not None:
            _definition(weight, weight.definition, earlier, inference)
        earlier[name] = weight
    for name, state in module.states.items():
        _global("states", name, state)
        if name in module.weights:
            raise VerifyError(f"state @{name}: a weight has that name; expected one of its own")
    for name, function in module.functions.items():
        if function.name != name or _NAME.fullmatch(name) is None:
            raise VerifyError(f"functions: {name!r} is called {function.name!r}; expected its key, of A-Z a-z 0-9 _ .")
        _Checker(module, function, inference).check()


def _global(where: str, name: str, value: Value) -> None:
    if value.name != name:
        raise VerifyError(f"{where}: {name!r} is called {value.name!r}; expected its key")
    _declared(where, value)


def _declared(where: str, value: Value) -> None:
    """What no operation makes must say by itself that it is well formed."""
    if _NAME.fullmatch(value.name) is None:
        raise VerifyError(f"{where}: {value.name!r} is not a name; expected A-Z a-z 0-9 _ .")
    if value.type.dtype not in NUMPY_DTYPES or any(n <= 0 for n in value.type.shape):
        raise VerifyError(f"{where}: {value.ref} has type {value.type}; expected a known dtype and positive sizes")
    if value.arena is not None:
        raise VerifyError(f"{where}: {value.ref} has a place in the arena; only operations' results have one")


def _definition(weight: Weight, op: Operation, earlier: Mapping[str, Weight], inference: _Inference) -> None:
    where = f"weight {weight.ref}"
    for operand in op.operands:
        if not isinstance(operand, Weight) or earlier.get(operand.name) is not operand:
            raise VerifyError(f"{where}: its definition reads {operand.ref}; expected weights that stand before it")
    types = inference.types(where, op)
    if types != (weight.type,) or [v.type for v in op.results] != [weight.type] or op.result.name != weight.name:
        raise VerifyError(f"{where}: its definition gives {', '.join(map(str, types))}; expected its own type and name")


class _Inference:
    """Types of results, worked out once for each distinct application: layers repeat, and parsed ones share objects."""

    def __init__(self) -> None:
        # Objects are known by identity, and held, so that none takes the place of another.
        self.known: dict[tuple[object, ...], tuple[Operation, tuple[TensorType, ...]]] = {}

    def types(self, where: str, op: Operation) -> tuple[TensorType, ...]:
        """Raises VerifyError."""
        key = (op.name, id(op.attrs), *[id(v.type) for v in op.operands])
        if (known := self.known.get(key)) is None:
            known = self.known[key] = op, _types(where, op)
        return known[1]


def _types(where: str, op: Operation) -> tuple[TensorType, ...]:
    try:
        entry = lookup(op.name)
        complete = entry.complete(op.attrs)
        types = entry.result_types(tuple(v.type for v in op.operands), complete)
    except VerifyError as error:
        raise VerifyError(f"{where}: {error}") from None
    if list(complete.items()) != list(op.attrs.items()):
        raise VerifyError(f"{where}: {op.name}: attributes; expected all, in the order of the op table")
    return types


class _Checker:
    def __init__(self, module: Module, function: Function, inference: _Inference) -> None:
        self.module, self.function, self.inference = module, function, inference
        self.where = f"func @{function.name}"
        self.visible: set[int] = set()
        self.names: set[str] = set()
        self.root: dict[int, State] = {}  # a state's successive values -> the state
        self.spent: dict[int, Operation] = {}  # values a later one has overwritten
        self.window: dict[int, Value] = {}  # windows -> what they look at

    def fail(self, message: str) -> NoReturn:
        raise VerifyError(f"{self.where}: {message}")

    def check(self) -> None:
        for value in self.function.inputs:
            _declared(self.where, value)
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
        if self.function.arena is None:
            self.no_arena()
        else:
            self.arena(self.function.arena)

    def define(self, value: Value) -> None:
        if value.name in self.names:
            self.fail(f"{value.ref} is defined twice")
        if _NAME.fullmatch(value.name) is None:
            self.fail(f"{value.name!r} is not a name; expected A-Z a-z 0-9 _ .")
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
        if (by := self.spent.get(id(self.window.get(id(value), value)))) is not None:
            self.fail(f"{op_name}: {value.ref} was overwritten by {by.name} giving {by.result.ref}; read that instead")

    def operation(self, op: Operation) -> None:
        for value in op.operands:
            self.seen(op.name, value)
        types = self.inference.types(self.where, op)
        if types != tuple([v.type for v in op.results]):
            got = ", ".join(str(v.type) for v in op.results)
            self.fail(f"{op.name}: expected {', '.join(map(str, types))}, got {got}")
        entry = lookup(op.name)
        if entry.views is not None:
            source = op.operands[entry.views]
            self.window.update({id(v): self.window.get(id(source), source) for v in op.results})
        if (target := entry.updates) is not None:
            old = op.operands[target]
            state = old if isinstance(old, State) else self.root.get(id(old))
            if state is None:
                self.fail(f"{op.name}: {old.ref} is not a state; only a state can be overwritten")
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
        if len({id(v) for v in op.results}) != len(op.results) or op.attrs:
            self.fail(f'kernel "{op.template}": expected no attributes, and each result once')
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

    def no_arena(self) -> None:
        for op in (*self.function.ops, *self.function.walk()):
            if op.scratch is not None or any(v.arena is not None for v in op.results):
                self.fail(f"{op.results[0].ref} or its scratch has a place in the arena; the function has no arena")

    def arena(self, size: int) -> None:
        lifetimes = Lifetimes.of(self.function)
        allowed = {(id(t.old), id(t.new)) for t in lifetimes.takeovers if t.old.root.arena == t.new.root.arena}
        for op in self.function.walk():
            for value in op.results:
                if value.arena is not None and not owns_memory(op):
                    self.fail(f"{value.ref} has a place in the arena; a window on other memory has none")
        used: list[_Used] = []
        for block in lifetimes.blocks:
            offset = block.root.arena
            if offset is not None:
                used.append(_Used(block.root.ref, offset, block.bytes, block.first, block.last, id(block)))
            elif not block.inner:
                self.fail(f"{block.root.ref} has no place in the arena")
        for op in {id(o): o for o in (*self.function.ops, *self.function.walk())}.values():
            if op.scratch is not None:
                used.append(_Used(f"scratch of {op.results[0].ref}", *op.scratch, *lifetimes.when[id(op)], 0))
        used.sort(key=lambda u: u.first)
        alive: list[_Used] = []  # sweep over time: whoever is in use at once must not overlap
        for new in used:
            if new.offset < 0 or new.offset % ALIGNMENT or new.bytes < 0 or new.offset + new.bytes > size:
                self.fail(
                    f"{new.what} takes {new.bytes} bytes in arena+{new.offset}; "
                    f"expected a multiple of {ALIGNMENT} inside {size}"
                )
            alive = [old for old in alive if old.last >= new.first]
            for old in alive:
                overlap = old.offset < new.offset + new.bytes and new.offset < old.offset + old.bytes
                if overlap and (old.block, new.block) not in allowed:
                    self.fail(f"{old.what} and {new.what} are in use at once and overlap in the arena")
            alive.append(new)


class _Used(NamedTuple):
    """A stretch of the arena and the time it is in use."""

    what: str
    offset: int
    bytes: int
    first: int
    last: int
    block: int  # identity of its block, 0 for scratch
