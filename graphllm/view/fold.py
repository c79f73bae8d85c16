"""Finds repeated layers: runs of operations that are the same but for the weights and states they read.

Two groups of operations have one signature when they do the same to values of the same types, wired the same way;
names and arena places do not count. A run is folded only when each repetition takes from the one before what that one
took from its own predecessor, and nothing outside reads the middle of it: then one drawing stands for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.printer import print_attr
from graphllm.view.scope import layer_of

LONGEST_PERIOD: Final = 8  # layers of one repetition, for models that alternate kinds of attention

Signature = tuple[str, ...]


def signature(ops: Iterable[Operation]) -> Signature:
    """What the operations compute, without names: equal for groups that one drawing, or one kernel, can serve."""
    numbers: dict[int, str] = {}

    def number(v: Value) -> str:
        kind = "w" if isinstance(v, Weight) else "s" if isinstance(v, State) else "v"
        return numbers.setdefault(id(v), f"{kind}{len(numbers)}:{v.type}")

    def line(op: Operation) -> str:
        operands = ",".join(map(number, op.operands))
        attrs = ",".join(f"{k}={print_attr(v)}" for k, v in op.attrs.items())
        return f"{op.name}({operands}){{{attrs}}}->{','.join(map(number, op.results))}"

    out: list[str] = []
    for op in ops:
        if op.body is None:
            out.append(line(op))
        else:
            out += [f"kernel {op.template}", *map(line, op.body.ops), f"end {','.join(map(number, op.results))}"]
    return tuple(out)


def distinct_kernels(module: Module, function: str) -> int:
    """How many different kernels a function runs."""
    return len({signature((op,)) for op in module.functions[function].ops})


@dataclass(frozen=True, slots=True)
class Segment:
    """Successive operations of a function; ``units`` holds every repetition, the first of which is drawn.

    ``layers`` are those of each repetition, () outside all layers. ``carried`` pairs an outer value of the first
    repetition with the value it makes for the next one.
    """

    units: tuple[tuple[Operation, ...], ...]
    layers: tuple[tuple[int, ...], ...]
    carried: tuple[tuple[Value, Value], ...] = ()

    @property
    def folded(self) -> bool:
        return len(self.units) > 1


def fold_layers(function: Function) -> list[Segment]:
    """The function cut into what is outside the layers, single layers and folded runs of them, in program order."""
    pieces: list[tuple[int | None, list[Operation]]] = []
    order = _conversions_last(function.ops)
    for op in order:
        layer = layer_of(op)
        if not pieces or pieces[-1][0] != layer:
            pieces.append((layer, []))
        pieces[-1][1].append(op)
    signatures = [signature(ops) for _, ops in pieces]
    readers = _Readers(function, order)
    out: list[Segment] = []
    i = 0
    while i < len(pieces):
        best = _single(pieces[i])
        used = 1
        for period in range(1, LONGEST_PERIOD + 1):
            count = _repetitions(pieces, signatures, i, period)
            while count > 1 and count * period > used:
                found = _fold(pieces[i : i + count * period], period, readers)
                if found is not None:
                    best, used = found, count * period
                count -= 1
        out.append(best)
        i += used
    return out


def constants(ops: Iterable[Operation]) -> list[Weight | State]:
    """Weights and states that operations read, in order of first use, a kernel's inside included."""
    seen: dict[int, Weight | State] = {}
    for op in ops:
        for o in op.body.ops if op.body is not None else (op,):
            seen.update({id(v): v for v in o.operands if isinstance(v, (Weight, State))})
    return list(seen.values())


def _conversions_last(ops: Sequence[Operation]) -> list[Operation]:
    """The operations with those that only convert weights moved to just before who first reads them."""
    waiting: dict[int, Operation] = {}  # id(result) -> its maker
    out: list[Operation] = []

    def emit(op: Operation) -> None:
        for v in op.operands:
            maker = waiting.get(id(v))
            if maker is not None:
                for w in maker.results:
                    del waiting[id(w)]
                emit(maker)
        out.append(op)

    for op in ops:
        constant = all(isinstance(v, Weight) or id(v) in waiting for v in op.operands)
        if constant and op.operands and op.body is None:
            waiting.update({id(v): op for v in op.results})
        else:
            emit(op)
    while waiting:  # read by the return alone, or by nobody
        maker = next(iter(waiting.values()))
        for w in maker.results:
            del waiting[id(w)]
        emit(maker)
    return out


def _single(piece: tuple[int | None, list[Operation]]) -> Segment:
    layer, ops = piece
    return Segment((tuple(ops),), ((layer,),) if layer is not None else ((),))


def _repetitions(
    pieces: Sequence[tuple[int | None, list[Operation]]], signatures: Sequence[Signature], start: int, period: int
) -> int:
    """How often the ``period`` layers at ``start`` come again and again, by number and by signature."""
    first = pieces[start][0]
    count = 0
    while first is not None and start + (count + 1) * period <= len(pieces):
        at = range(start + count * period, start + (count + 1) * period)
        if any(pieces[i][0] != first + i - start for i in at):
            break
        if any(signatures[i] != signatures[start + (i - start) % period] for i in at):
            break
        count += 1
    return count


class _Readers:
    """Who reads each value: positions of operations in the function, its return last."""

    def __init__(self, function: Function, order: Sequence[Operation]) -> None:
        self.of: dict[int, list[int]] = {}
        self.at = {id(op): i for i, op in enumerate(order)}
        for i, op in enumerate(order):
            for v in op.operands:
                self.of.setdefault(id(v), []).append(i)
        for v in function.results:
            self.of.setdefault(id(v), []).append(len(order))

    def only_before(self, ops: Iterable[Operation], end: Operation) -> bool:
        """Whether nothing after ``end`` reads what the operations make."""
        return all(i <= self.at[id(end)] for op in ops for v in op.results for i in self.of.get(id(v), ()))


def _fold(pieces: Sequence[tuple[int | None, list[Operation]]], period: int, readers: _Readers) -> Segment | None:
    """One segment for the pieces, or None where the repetitions are not wired alike."""
    groups = [pieces[i : i + period] for i in range(0, len(pieces), period)]
    units = tuple(tuple(op for _, ops in group for op in ops) for group in groups)
    if len({signature(unit) for unit in units}) > 1:
        return None
    wiring = _wiring(units[0], units[1])
    if wiring is None or any(_wiring(a, b) != wiring for a, b in pairwise(units)):
        return None
    # a value of any repetition but the last may be read by the next one at most
    if not all(readers.only_before(unit, after[-1]) for unit, after in pairwise(units)):
        return None
    outer, made = _outer(units[0]), _made(units[0])
    carried = tuple((v, made[w]) for v, w in zip(outer, wiring, strict=True) if w is not None)
    layers = tuple(tuple(layer for layer, _ in group if layer is not None) for group in groups)
    return Segment(units, layers, carried)


def _wiring(unit: Sequence[Operation], following: Sequence[Operation]) -> tuple[int | None, ...] | None:
    """For each outer value of ``following`` the result of ``unit`` it is; None where both read the same value."""
    made = {id(v): i for i, v in enumerate(_made(unit))}
    out: list[int | None] = []
    for before, now in zip(_outer(unit), _outer(following), strict=True):
        if before is now:
            out.append(None)
        elif id(now) in made:
            out.append(made[id(now)])
        else:
            return None
    return tuple(out)


def _outer(unit: Sequence[Operation]) -> list[Value]:
    made = {id(v) for v in _made(unit)}
    read = {id(v): v for op in unit for v in op.operands if not isinstance(v, (Weight, State))}
    return [v for i, v in read.items() if i not in made]


def _made(unit: Sequence[Operation]) -> list[Value]:
    return [v for op in unit for v in op.results]
