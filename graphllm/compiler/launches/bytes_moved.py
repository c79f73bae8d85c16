"""Bytes that launches move, counted from the launch plan, beside the least that the IR says must be moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from graphllm.ir.core import Function
from graphllm.ir.cost import cached_bytes_per_position, kernel_bytes, step_bytes
from graphllm.plan.launch import Launch, Stream


@dataclass(frozen=True, slots=True)
class Moved:
    """Of a kernel, all its launches together, or of a whole step.

    Attributes:
        launches: how many.
        moved: bytes that they move.
        floor: bytes that the IR's operations move at least: weights once, inputs and results once, cached rows once.
    """

    launches: int
    moved: int
    floor: int

    @property
    def ratio(self) -> float:
        """What is moved for each byte that must be."""
        return self.moved / self.floor if self.floor else 1.0

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.launches + other.launches, self.moved + other.moved, self.floor + other.floor)


_NOTHING: Final = Moved(0, 0, 0)


def sequences(stream: Stream, function: Function) -> int:
    """How many caches a step reads: that of each row, or of the one prompt that all rows belong to."""
    return 1 if function.rows == "consecutive" else stream.rows


def step_moved(stream: Stream, function: Function, positions: int) -> Moved:
    """A step of the function where every row sees ``positions`` positions; the choice of a token left out."""
    caches = sequences(stream, function)
    floor = step_bytes(function) + cached_bytes_per_position(function) * positions * caches
    return Moved(len(stream.launches), sum(moved(x, positions, caches) for x in stream.launches), floor)


def kernels_moved(stream: Stream, function: Function, positions: int) -> dict[str, Moved]:
    """Each kernel of the function. One that prepares another's work has no floor: it all stands with the other."""
    out: dict[str, Moved] = {}
    for launch, own in _launches_moved(stream, function, positions):
        out[launch.kernel] = out.get(launch.kernel, _NOTHING) + own
    return out


def operations_moved(stream: Stream, function: Function, positions: int) -> list[Moved | None]:
    """What each operation of the function moves by its launches; None for one that launches nothing.

    Of several that share a launch, the first has it, and the floor of all.
    """
    out: list[Moved | None] = [None] * len(function.ops)
    for launch, own in _launches_moved(stream, function, positions):
        out[launch.op] = (out[launch.op] or _NOTHING) + own
    return out


def _launches_moved(stream: Stream, function: Function, positions: int) -> Iterator[tuple[Launch, Moved]]:
    """Each launch, with the floor of the operations up to the next one."""
    caches = sequences(stream, function)
    for at, launch in enumerate(stream.launches):
        following = stream.launches[at + 1].op if at + 1 < len(stream.launches) else len(function.ops)
        floor = sum(map(kernel_bytes, function.ops[launch.op : max(launch.op, following)]))
        floor += launch.cached * positions * caches
        yield launch, Moved(1, moved(launch, positions, caches), floor)


def moved(launch: Launch, positions: int, caches: int) -> int:
    """Bytes that one launch moves. What several blocks read of a cache comes from memory once."""
    return sum(a.moved for a in launch.accesses) + launch.cached * positions * caches
