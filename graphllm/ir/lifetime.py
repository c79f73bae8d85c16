"""When each stretch of activation memory is in use: what the memory planner packs and the verifier checks.

Time is counted in table operations of a function, in order. A kernel whose inner values have places of their own runs
operation by operation; any other kernel is one instant: all it reads and writes is in use at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from graphllm.ir.core import Function, Operation, Value
from graphllm.ir.opdef import lookup

ALIGNMENT: Final = 64  # bytes: a cache line, and the widest vector load; places in the arena are multiples of it


def aligned(size: int) -> int:
    """Bytes that ``size`` bytes take in the arena: whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(slots=True)
class Block:
    """Memory of one value and of every window on it, in use from ``first`` to ``last`` (inclusive)."""

    root: Value
    first: int
    last: int
    inner: bool  # known only inside one kernel

    @property
    def bytes(self) -> int:
        return self.root.type.bytes


@dataclass(frozen=True, slots=True)
class Takeover:
    """At time ``at`` the value of ``new`` may be written into the memory of ``old``, which nothing reads later."""

    old: Block
    new: Block
    at: int


@dataclass(slots=True)
class Lifetimes:
    """Blocks in order of their first use, the takeovers their operations allow, and when each operation runs."""

    blocks: list[Block] = field(default_factory=list[Block])
    takeovers: list[Takeover] = field(default_factory=list[Takeover])
    block_of: dict[int, Block] = field(default_factory=dict[int, Block])  # id(value) -> its block
    when: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])  # id(operation) -> its times

    @staticmethod
    def of(function: Function, placed: Callable[[Value], bool] = lambda value: value.arena is not None) -> Lifetimes:
        """Lifetimes of a function. ``placed``: whether an inner value of a kernel has, or will get, a place."""
        out = Lifetimes()
        at = 0
        for op in function.ops:
            inner = op.body.ops if op.body is not None else (op,)
            handed_out = {id(v) for v in op.results}
            by_op = len(inner) == 1 or any(placed(v) for o in inner for v in o.results if id(v) not in handed_out)
            end = at + len(inner) - 1
            out.when[id(op)] = at, end
            for i, o in enumerate(inner):
                first, last = (at + i, at + i) if by_op else (at, end)
                out.when[id(o)] = first, last
                out._operation(o, first, last, handed_out, in_place=by_op)
            at = end + 1
        for value in (*function.results, *(v for _, v in function.updates)):
            if (block := out.block_of.get(id(value))) is not None:
                block.last = at
        out.takeovers = [t for t in out.takeovers if t.old.last == t.at and t.new.first == t.at]
        return out

    def _operation(self, op: Operation, first: int, last: int, handed_out: set[int], *, in_place: bool) -> None:
        for value in op.operands:
            if (block := self.block_of.get(id(value))) is not None:
                block.last = max(block.last, last)
        entry = lookup(op.name)
        if entry.updates is not None:
            return  # lives in a state
        if entry.views is not None:
            source = op.operands[entry.views]
            block = self.block_of.get(id(source))
            if block is not None:  # otherwise a window on an input, a weight or a state
                for value in op.results:
                    self.block_of[id(value)] = block
                    block.inner = block.inner and id(value) not in handed_out
            return
        for value in op.results:
            block = Block(value, first, last, id(value) not in handed_out)
            self.blocks.append(block)
            self.block_of[id(value)] = block
        if not in_place:
            return
        for i in entry.reuses:
            source = op.operands[i]
            old = self.block_of.get(id(source))
            if old is None or source.type != op.result.type or op.result.type.bytes != old.bytes:
                continue
            if sum(self.block_of.get(id(v)) is old for v in op.operands) == 1:  # the others must not change meanwhile
                self.takeovers.append(Takeover(old, self.block_of[id(op.result)], first))


def owns_memory(op: Operation) -> bool:
    """Whether a table operation's results are memory of their own: neither windows nor a state's later value."""
    entry = lookup(op.name)
    return entry.views is None and entry.updates is None
