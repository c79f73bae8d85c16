"""The arena of a planned function as a list of stretches: what lies where, from when to when, and in whose place.

Time is counted as ``ir.lifetime`` does, in table operations. Bytes are whole cache lines, as the planner counts them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from graphllm.errors import GraphLLMError
from graphllm.ir.core import Function, Operation
from graphllm.ir.lifetime import Lifetimes, aligned

Role = Literal["result", "between", "inner", "scratch"]
ROLES: Final[dict[Role, str]] = {
    "result": "result of the function",
    "between": "goes from kernel to kernel",
    "inner": "inside one kernel",
    "scratch": "scratch of one operation",
}


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes ``offset`` to ``offset + bytes`` of the arena, in use from ``first`` to ``last`` (inclusive).

    ``heir_of`` is the index of the stretch whose place it takes at ``first``, while the operation that makes it still
    reads the old content; -1 for none.
    """

    name: str
    type: str
    role: Role
    offset: int
    bytes: int
    first: int
    last: int
    heir_of: int = -1


@dataclass(frozen=True, slots=True)
class Step:
    """One instant: a table operation and the kernel it is in (its number, and its template or own name)."""

    op: Operation
    kernel: int
    template: str


def steps(function: Function) -> list[Step]:
    """What happens when."""
    return [
        Step(o, i, op.template if op.body is not None else op.name)
        for i, op in enumerate(function.ops)
        for o in (op.body.ops if op.body is not None else (op,))
    ]


def stretches(function: Function) -> list[Stretch]:
    """All of the arena's use, in order of first use. Raises GraphLLMError where no memory was planned."""
    if function.arena is None:
        where = f"func @{function.name}"
        raise GraphLLMError(f"{where}: has no memory plan; expected a lowered module, run the pass plan-memory first")
    lifetimes = Lifetimes.of(function)
    returned = {id(lifetimes.block_of[id(v)]) for v in function.results if id(v) in lifetimes.block_of}
    index: dict[int, int] = {}
    heirs: dict[int, int] = {}
    for t in lifetimes.takeovers:
        if t.old.root.arena is not None and t.old.root.arena == t.new.root.arena:
            heirs.setdefault(id(t.new), id(t.old))
    out: list[Stretch] = []
    for block in lifetimes.blocks:
        offset = block.root.arena
        if offset is None:
            continue
        role: Role = "result" if id(block) in returned else "inner" if block.inner else "between"
        old = index.get(heirs.get(id(block), -1), -1)
        index[id(block)] = len(out)
        size, name, kind = aligned(block.bytes), block.root.ref, str(block.root.type)
        out.append(Stretch(name, kind, role, offset, size, block.first, block.last, old))
    for op in (*function.walk(), *(op for op in function.ops if op.body is not None)):
        if op.scratch is not None:
            offset, size = op.scratch
            name = f"{op.template or op.name} for {op.results[0].ref}"
            out.append(Stretch(name, "", "scratch", offset, aligned(size), *lifetimes.when[id(op)]))
    return out


def in_use(all_stretches: list[Stretch], at: int) -> list[Stretch]:
    """What is in use at a time, largest first; of two in one place only the later."""
    alive = [s for s in all_stretches if s.first <= at <= s.last]
    left = {s.heir_of for s in alive if s.first == at and s.heir_of >= 0}
    return sorted(
        (s for i, s in enumerate(all_stretches) if s.first <= at <= s.last and i not in left),
        key=lambda s: (-s.bytes, s.offset),
    )


def peak(all_stretches: list[Stretch]) -> tuple[int, int]:
    """(time, bytes) of the first moment at which most bytes are in use."""
    times = sorted({s.first for s in all_stretches})
    return max(((t, sum(s.bytes for s in in_use(all_stretches, t))) for t in times), key=lambda p: p[1], default=(0, 0))
