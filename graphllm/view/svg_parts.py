"""What a picture of a graph is put together from, and the sizes everything has."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from graphllm.view.picture import Flow, Node

SMALL: Final = 9.5  # type sizes
TEXT: Final = 10.5
LINE: Final = 15.0  # height of an operation in a box
HEAD: Final = 18.0
LABEL: Final = 14.0  # height of the strip of labels under a row
TRACK: Final = 7.0
LANE: Final = 9.0
TITLE: Final = 22.0  # height of a frame's title
APART: Final = 26.0  # between boxes of a row
WIDEST: Final = 42  # characters of a column


@dataclass(slots=True)
class Chip:
    """A weight or state beside the operation that reads it."""

    node: Node
    text: str
    writes: bool
    width: float = 0


@dataclass(slots=True)
class Box:
    """A kernel, a lone operation or a value, with what is written in it."""

    id: str
    pill: bool
    frame: str
    head: str
    cost: str = ""
    lines: list[Node] = field(default_factory=list[Node])
    columns: list[list[str]] = field(default_factory=list[list[str]])
    chips: list[list[Chip]] = field(default_factory=list[list[Chip]])  # by line
    row: int = 0
    x: float = 0
    y: float = 0
    w: float = 0
    h: float = 0

    starts: list[float] = field(default_factory=list[float])  # of each column, then the end

    @property
    def chips_width(self) -> float:
        return max((sum(c.width + 3 for c in chips) + 12 for chips in self.chips if chips), default=0.0)


@dataclass(slots=True)
class Net:
    """One value: from a port of the box that makes it to every box that reads it."""

    source: Box
    flow: Flow
    sinks: list[Box] = field(default_factory=list[Box])
    loops: list[Box] = field(default_factory=list[Box])
    x: float = 0
    entry: dict[str, float] = field(default_factory=dict[str, float])  # id of a sink -> x
    lane: float | None = None
    track: dict[int, float] = field(default_factory=dict[int, float])  # gap below this row -> y


@dataclass(slots=True)
class Layout:
    """Everything in its place. ``frames`` are (left, top, right, bottom)."""

    boxes: dict[str, Box]
    nets: list[Net]
    frames: dict[str, tuple[float, float, float, float]]
    right: float
    bottom: float
