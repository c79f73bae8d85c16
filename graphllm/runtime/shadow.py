"""A shadow of a device's memory: for every byte of the arena who wrote it last, for every cache which positions hold.

It follows a function operation by operation and knows what may go wrong on a real device: bytes that were never
written, or were written over since; a place outside the arena; results laid over what is being read; a cache position
that nothing has written. It works lifetimes out by living them, not by the planner's rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import PlanError, VerifyError
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.opdef import lookup
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.types import TensorType

Array = NDArray[Any]
Offsets = NDArray[np.int64]  # of a value's elements in the arena, in the value's shape


class Caches:
    """Which positions of every state hold something, slot by slot. Outlives the steps."""

    def __init__(self, module: Module) -> None:
        self.types = {name: s.type for name, s in module.states.items()}
        self.written = {name: np.zeros((*t.shape[:1], *t.shape[2:3]), np.bool_) for name, t in self.types.items()}


class Shadow:
    """One step of a function. ``given`` are its inputs as the device would hand them over."""

    def __init__(self, function: Function, caches: Caches, given: Mapping[str, Array]) -> None:
        self.function, self.caches = function, caches
        self.given = {id(v): given[v.name] for v in function.inputs if v.name in given}
        self.owner = np.zeros(function.arena or 0, np.int32)  # of every byte, an index into self.owners
        self.owners = ["nobody"]
        self.mark: dict[int, int] = {}  # id(value) -> index of who wrote its bytes
        self.offsets: dict[int, Offsets] = {}  # id(value) -> where its elements lie, windows included
        self.bytes: dict[int, Offsets] = {}  # id(value) -> all of their bytes
        self.inner: dict[int, Operation] = {}  # id(value) held nowhere -> what computes it for its reader
        self.state: dict[int, State] = {}  # id(value) -> the state it is a value of
        self.latest: dict[int, Value] = {}  # id(state) -> its value now
        self.op: Operation | None = None

    def run(self) -> None:
        """The whole step. Raises PlanError at the first thing wrong."""
        for op in self.function.ops:
            self.kernel(op)
        self.op = None
        for value in self.function.results:
            self.read(value)
        for state, value in self.function.updates:
            if self.latest.get(id(state)) is not value:
                self.fail(f"hands back {value.ref} for {state.ref}; expected its latest value")
            del self.latest[id(state)]
        for value in self.latest.values():
            self.fail(f"{value.ref} is written and not handed back")

    def fail(self, what: str) -> NoReturn:
        where = f"func @{self.function.name}: "
        if self.op is not None:
            where += f"{self.op.name} giving {', '.join(v.ref for v in self.op.results)}: "
        raise PlanError(where + what)

    # Operations

    def kernel(self, op: Operation) -> None:
        body = op.body.ops if op.body is not None else (op,)
        handed_out = {id(v) for v in op.results}
        at_once = False  # whether some of it happens in registers, so that nothing in it comes first
        for inner in body:
            self.op = inner
            self.types(inner)
            for value in inner.results:
                if (value.arena is None and not _lives_elsewhere(inner)) or self.in_registers(inner):
                    if id(value) in handed_out:
                        self.fail(f"{value.ref} has no place in the arena and is read by other kernels")
                    self.inner[id(value)] = inner
                    at_once |= not all(isinstance(v, Weight) for v in inner.operands)
            if not any(id(v) in self.inner for v in inner.results):
                self.operation(inner)
        self.op = op
        if at_once:  # whatever the kernel reads must still be there when it has written everything
            for value in op.operands:
                if id(value) in self.bytes:
                    self.read(value)
        if op.body is not None and op.scratch is not None:
            self.write(f"scratch of kernel {op.template}", self.stretch("its scratch", *op.scratch))

    def in_registers(self, op: Operation) -> bool:
        """Whether the operation is a window on something that is in no memory."""
        views = lookup(op.name).views
        return views is not None and id(op.operands[views]) in self.inner

    def operation(self, op: Operation) -> None:
        reads = [where for i, v in enumerate(op.operands) for where in self.sources(op, i, v)]
        for _, value in reads:
            self.read(value)
        entry = lookup(op.name)
        self.indices(op)
        if entry.updates is not None:
            self.cache_write(op, op.operands[entry.updates])
            return
        if op.name in ATTENTION:
            self.cache_read(op)
        if entry.views is not None:
            self.view(op, op.operands[entry.views])
            return
        taken: list[tuple[str, Offsets]] = []
        if op.scratch is not None:
            taken.append((f"scratch of {op.results[0].ref}", self.stretch("its scratch", *op.scratch)))
        for value in op.results:
            assert value.arena is not None
            places = self.stretch(value.ref, value.arena, value.type.bytes)
            for what, other in taken:
                if _overlap(places, other):
                    self.fail(f"{value.ref} and {what} overlap in the arena")
            taken.append((value.ref, places))
        for operand, value in reads:
            self.in_the_way(op, operand, value, taken)
        for what, places in taken:
            self.write(what, places)
        for value in op.results:
            assert value.arena is not None
            step = value.type.numpy.itemsize
            places = np.arange(value.arena, value.arena + value.type.bytes, step, dtype=np.int64)
            self.place(value, places.reshape(value.type.shape), self.owners.index(value.ref))

    def sources(self, op: Operation, i: int, value: Value) -> Iterable[tuple[int, Value]]:
        """(operand of ``op``, or -1 behind a value in registers; value that is read from memory)."""
        if id(value) not in self.inner:
            yield i, value
            return
        maker = self.inner[id(value)]
        for v in maker.operands:
            yield from ((-1, w) for _, w in self.sources(maker, -1, v))

    def in_the_way(self, op: Operation, operand: int, value: Value, taken: list[tuple[str, Offsets]]) -> None:
        """Refuse results laid over an operand, but for result 0 in place of one the operation may overwrite."""
        held = self.bytes.get(id(value))
        if held is None:
            return
        result = op.results[0]
        for what, places in taken:
            if not _overlap(held, places):
                continue
            in_place = what == result.ref and value.type == result.type and np.array_equal(held, places)
            if not (in_place and operand in lookup(op.name).reuses):
                self.fail(f"writes {what} over {value.ref}, which it reads")

    def types(self, op: Operation) -> None:
        for value in op.operands:
            known = id(value) in self.offsets or id(value) in self.state or id(value) in self.inner
            if not (known or isinstance(value, (Weight, State)) or any(v is value for v in self.function.inputs)):
                self.fail(f"reads {value.ref}, which nothing has computed")
        try:
            types = lookup(op.name).result_types(tuple(v.type for v in op.operands), op.attrs)
        except (VerifyError, TypeError) as error:
            self.fail(str(error))
        if tuple(v.type for v in op.results) != types:
            got = ", ".join(str(v.type) for v in op.results)
            self.fail(f"its results; expected {', '.join(map(str, types))}, got {got}")

    # The arena

    def stretch(self, what: str, offset: int, size: int) -> Offsets:
        """Bytes offset … offset + size of the arena."""
        if offset < 0 or size < 0 or offset + size > len(self.owner):
            self.fail(f"{what}: bytes {offset} to {offset + size}; expected inside the arena of {len(self.owner)}")
        return np.arange(offset, offset + size, dtype=np.int64)

    def write(self, who: str, places: Offsets) -> None:
        if who not in self.owners:
            self.owners.append(who)
        self.owner[places] = self.owners.index(who)

    def read(self, value: Value) -> None:
        """Refuse a value whose bytes are not its own any more, or never were."""
        if (state := self.state.get(id(value), value if isinstance(value, State) else None)) is not None:
            if (latest := self.latest.get(id(state), state)) is not value:
                self.fail(f"reads {value.ref}, which {latest.ref} has overwritten")
            return
        if (held := self.bytes.get(id(value))) is None:
            return  # a weight or an input
        found = self.owner[held]
        wrong = found[found != self.mark[id(value)]]
        if wrong.size:
            by = self.owners[int(wrong[0])]
            self.fail(f"reads {value.ref}, of whose {found.size} bytes {wrong.size} were overwritten by {by}")

    def view(self, op: Operation, source: Value) -> None:
        """Windows lie where the same window on their source's offsets lies."""
        if id(source) not in self.offsets:
            self.fail(f"{source.ref} is not in the arena; expected a computed value behind a window")
        found: Any = lookup(op.name).reference(self.offsets[id(source)], **op.attrs)
        windows = cast("tuple[Offsets, ...]", found if len(op.results) > 1 else (found,))
        for value, places in zip(op.results, windows, strict=True):
            self.place(value, places, self.mark[id(source)])

    def place(self, value: Value, offsets: Offsets, mark: int) -> None:
        """The value's elements lie at ``offsets`` and its bytes belong to ``mark``."""
        self.offsets[id(value)], self.mark[id(value)] = offsets, mark
        self.bytes[id(value)] = (offsets.reshape(-1, 1) + np.arange(value.type.numpy.itemsize)).reshape(-1)

    # Inputs and states

    def indices(self, op: Operation) -> None:
        """Row numbers must be rows of the table."""
        if op.name in ("embed", "take_rows"):
            which, table = (0, 1) if op.name == "embed" else (1, 0)
            given, rows = self.given.get(id(op.operands[which])), op.operands[table].type.shape[0]
            if given is not None and not ((given >= 0) & (given < rows)).all():
                self.fail(f"{op.operands[which].ref} asks for row {_odd(given, rows)} of {rows}")

    def rows(self, op: Operation, cache: TensorType) -> list[tuple[int, int]]:
        """(position, slot) of the live rows."""
        out: list[tuple[int, int]] = []
        pos, slot = (self.given.get(id(v)) for v in op.operands[-2:])
        if pos is None or slot is None:
            self.fail(f"{op.operands[-2].ref} and {op.operands[-1].ref} place its rows; expected inputs of the step")
        for p, s in zip(pos.tolist(), slot.tolist(), strict=True):
            if p >= 0:
                if p >= cache.shape[2] or not 0 <= s < cache.shape[0]:
                    self.fail(f"position {p} of slot {s}; the cache is {cache}")
                out.append((p, s))
        return out

    def cache_write(self, op: Operation, cache: Value) -> None:
        state = self.state.get(id(cache), cache if isinstance(cache, State) else None)
        if state is None:
            self.fail(f"{cache.ref} is not a state")
        written = self.caches.written[state.name]
        for position, slot in self.rows(op, cache.type):
            written[slot, position:] = False  # a sequence that went back has forgotten what came later
            written[slot, position] = True
        self.state[id(op.results[0])] = state
        self.latest[id(state)] = op.results[0]

    def cache_read(self, op: Operation) -> None:
        window = int(str(op.attrs["window"]))
        for value in op.operands[1:-2]:
            state = self.state.get(id(value), value if isinstance(value, State) else None)
            if state is None:
                self.fail(f"{value.ref} is not a state")
            for position, slot in self.rows(op, value.type):
                first = max(0, position + 1 - window) if window else 0
                seen = self.caches.written[state.name][slot, first : position + 1]
                if not seen.all():
                    missing = first + int(np.argmin(seen))
                    self.fail(f"reads position {missing} of slot {slot} of {value.ref}, which nothing has written")


def _lives_elsewhere(op: Operation) -> bool:
    entry = lookup(op.name)
    return entry.views is not None or entry.updates is not None


def _overlap(a: Offsets, b: Offsets) -> bool:
    apart = a.max() < b.min() or b.max() < a.min() if a.size and b.size else True
    return not apart and bool(np.isin(a, b, kind="table").any())


def _odd(given: Array, rows: int) -> int:
    return int(given[(given < 0) | (given >= rows)][0])
