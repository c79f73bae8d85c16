"""Gives every activation an offset in one arena, so that nothing is allocated while a model runs.

Values whose lifetimes do not overlap share memory; a result takes over its operand's place where the op table allows
it and nothing reads the operand later. Offsets come from several greedy packings (Pisarchyk and Lee 2020,
arXiv:2001.03288, and orders of our own), of which the smallest is kept. ``arena_bounds`` compares it with the lower
bound: the most bytes alive at any one time.

before:
    func @f(%x: f32[1,16]) {
      %a = silu %x : f32[1,16]
      %b = silu %a : f32[1,16]
      %c = add %a, %b : f32[1,16]
      return %c
    }
after:
    func @f(%x: f32[1,16]) arena 128 {
      %a = silu %x : f32[1,16] in arena+0
      %b = silu %a : f32[1,16] in arena+64
      %c = add %a, %b : f32[1,16] in arena+0
      return %c
    }
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from graphllm.ir.builder import kernel
from graphllm.ir.core import Function, Module, Operation, Value
from graphllm.ir.lifetime import Block, Lifetimes, aligned, owns_memory
from graphllm.ir.target import Target
from graphllm.passes.rewrite import map_functions, rebuild, remap

_REPAIRS = 24  # of each order; nearly every function needs none


def plan_memory(module: Module, target: Target, *, keep: bool = False) -> Module:
    """Place the activations of every function. ``keep``: each for itself, so that all are still there after a step."""
    return map_functions(module, lambda f: _place(f, target, keep=keep))


@dataclass(slots=True)
class Interval:
    """Memory in use from ``first`` to ``last``, inclusive, and where it was put."""

    bytes: int
    first: int
    last: int
    offset: int = -1


def _place(function: Function, target: Target, *, keep: bool) -> Function:
    in_arena = {
        id(v)
        for op in function.walk()
        if target.stepwise and owns_memory(op) and not target.virtual(op)
        for v in op.results
    }
    lifetimes = Lifetimes.of(function, lambda value: id(value) in in_arena)
    placed_blocks = [b for b in lifetimes.blocks if not b.inner or id(b.root) in in_arena]
    if keep:
        lifetimes.takeovers = []
        for block in lifetimes.blocks:
            block.first, block.last = 0, max(b.last for b in lifetimes.blocks)
    intervals, of_block = _intervals(lifetimes, placed_blocks)
    scratch = {
        id(op): Interval(aligned(bytes_), *lifetimes.when[id(op)])
        for op in function.walk()
        if (bytes_ := target.scratch(op))
    }
    arena = pack([*intervals, *scratch.values()])
    offsets = {id(b.root): of_block[id(b)].offset for b in placed_blocks}
    return replace(_rewritten(function, offsets, {k: (i.offset, i.bytes) for k, i in scratch.items()}), arena=arena)


def _intervals(lifetimes: Lifetimes, blocks: Sequence[Block]) -> tuple[list[Interval], dict[int, Interval]]:
    """One interval for every chain of blocks that take over each other's place."""
    intervals: list[Interval] = []
    of_block: dict[int, Interval] = {}
    offers: dict[int, list[Block]] = {}
    for takeover in lifetimes.takeovers:
        offers.setdefault(id(takeover.new), []).append(takeover.old)
    for block in blocks:
        old = next((b for b in offers.get(id(block), ()) if id(b) in of_block), None)  # the first operand that may
        if old is not None:
            interval = of_block[id(old)]
            interval.last = block.last
        else:
            interval = Interval(aligned(block.bytes), block.first, block.last)
            intervals.append(interval)
        of_block[id(block)] = interval
    return intervals, of_block


def pack(intervals: Sequence[Interval]) -> int:
    """Set every interval's offset and return the arena's bytes: the best of a few greedy orders, then of repairs.

    A repair places whatever stuck out at the top first and the rest as before.
    """
    bound = lower_bound(intervals)
    orders: tuple[Callable[[Interval], tuple[int, ...]], ...] = (
        lambda i: (-i.bytes, i.first),
        lambda i: (i.first, -i.bytes),
        lambda i: (i.first - i.last, -i.bytes),
        lambda i: (-i.bytes * (i.last - i.first + 1), i.first),
    )
    best_size, best = -1, [0] * len(intervals)
    for key in orders:
        order = sorted(intervals, key=key)
        for _ in range(_REPAIRS):
            size = _greedy(order)
            if best_size < 0 or size < best_size:
                best_size, best = size, [i.offset for i in intervals]
            if size == bound:
                return size
            order.sort(key=lambda i: i.offset + i.bytes < size)
    for interval, offset in zip(intervals, best, strict=True):
        interval.offset = offset
    return best_size


def lower_bound(intervals: Sequence[Interval]) -> int:
    """The most bytes in use at one time: no placement can do with less."""
    events: dict[int, int] = {}
    for i in intervals:
        events[i.first] = events.get(i.first, 0) + i.bytes
        events[i.last + 1] = events.get(i.last + 1, 0) - i.bytes
    alive = peak = 0
    for time in sorted(events):
        alive += events[time]
        peak = max(peak, alive)
    return peak


def _greedy(intervals: Sequence[Interval]) -> int:
    """Each interval in turn at the tightest gap between those already placed that live at the same time."""
    placed: list[Interval] = []  # by offset
    size = 0
    for new in intervals:
        at, best, best_gap = 0, -1, 0
        for old in placed:
            if old.last < new.first or new.last < old.first:
                continue
            gap = old.offset - at
            if gap >= new.bytes and (best < 0 or gap < best_gap):
                best, best_gap = at, gap
            at = max(at, old.offset + old.bytes)
        new.offset = best if best >= 0 else at
        size = max(size, new.offset + new.bytes)
        placed.append(new)
        placed.sort(key=lambda i: i.offset)
    return size


def arena_bounds(function: Function) -> tuple[int, int]:
    """(arena bytes, lower bound) of a planned function."""
    lifetimes = Lifetimes.of(function)
    blocks = [b for b in lifetimes.blocks if b.root.arena is not None]
    intervals, _ = _intervals(lifetimes, blocks)
    intervals += [Interval(op.scratch[1], *lifetimes.when[id(op)]) for op in function.walk() if op.scratch is not None]
    return function.arena or 0, lower_bound(intervals)


def _rewritten(function: Function, offsets: dict[int, int], scratch: dict[int, tuple[int, int]]) -> Function:
    mapping: dict[int, Value] = {}

    def placed(op: Operation) -> Operation:
        for v in op.results:
            mapping[id(v)] = Value(v.name, v.type, offsets.get(id(v)))
        results = tuple(mapping[id(v)] for v in op.results)
        return replace(remap(op, mapping), results=results, scratch=scratch.get(id(op)))

    ops: list[Operation] = []
    for op in function.ops:
        if op.body is None:
            ops.append(placed(op))
        else:
            body = [placed(o) for o in op.body.ops]
            ops.append(kernel(op.template, body, [mapping[id(v)] for v in op.body.results]))
    return rebuild(function, ops, mapping)
