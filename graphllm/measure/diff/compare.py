"""Two traces, point by point: how far apart, and where they part.

RoPE's two layouts order the elements of a head differently, and compiling changes one into the other: both queries and
keys are permuted alike and no score changes. So values with heads are also compared after undoing that, and the closer
of the two counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import GraphLLMError
from graphllm.measure.diff.points import has_heads, layer_of_point
from graphllm.measure.diff.trace import Floats, Trace, formats

FINEST: Final = 1e-4  # relative error that f32 arithmetic in another order stays far below
_FORMATS: Final = {
    ("f32", "i8"): 0.2,
    ("bf16", "i8"): 0.2,
    ("f16", "i8"): 0.2,
    ("bf16", "f32"): 3e-2,
    ("f16", "f32"): 5e-3,
}


@dataclass(frozen=True, slots=True)
class Point:
    """A point of both.

    Attributes:
        largest: largest absolute difference; ``relative``: ``||a - b|| / ||a||`` over all rows, inf where either holds
            what is no number and the other does not.
        cosine: of the angle between the two; ``bad``: NaN and infinities in each.
        row: the position where they differ most.
        reordered: whether heads' elements had to be put into the other order.
    """

    name: str
    layer: int | None
    largest: float
    relative: float
    cosine: float
    bad: tuple[int, int]
    row: int
    reordered: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """All points of both, in the order of the first; ``parted``: the first beyond the tolerance."""

    names: tuple[str, str]
    tolerance: float
    points: tuple[Point, ...]
    parted: Point | None

    @property
    def agreed(self) -> frozenset[str]:
        """Points before the parting."""
        if self.parted is None:
            return frozenset(p.name for p in self.points)
        return frozenset(p.name for p in self.points[: self.points.index(self.parted)])

    def as_json(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "tolerance": self.tolerance,
            "points": [asdict(p) | {"bad": list(p.bad)} for p in self.points],
            "parted": self.parted.name if self.parted is not None else None,
        }


def tolerance_for(a: Trace, b: Trace) -> float:
    """What number formats alone may cause: of caches and activations, and of weights stored otherwise on one side."""
    found = max(FINEST, a.noise, b.noise)
    if a.source is None or b.source is None:
        return max(found, 1e-3)  # somebody else's arithmetic
    first, second = formats(a.source.module), formats(b.source.module)
    for name in first.keys() & second.keys():
        pair = (min(first[name], second[name]), max(first[name], second[name]))
        found = max(found, _FORMATS.get(pair, 0.0))
    if ("i8" in first.values()) != ("i8" in second.values()):
        found = max(found, 0.2)
    return found


def compare(a: Trace, b: Trace, head: int, tolerance: float = 0.0) -> Comparison:
    """Compare two traces of the same tokens.

    Args:
        head: elements of a head, d.
        tolerance: relative error from which they part; 0 for ``tolerance_for``.

    Raises:
        GraphLLMError: they have no point in common, or a value of another shape: not one model.
    """
    tolerance = tolerance or tolerance_for(a, b)
    points = tuple(_points(a, b, head, tolerance))
    if not points:
        raise GraphLLMError(f"diff: {a.name} and {b.name} have no value of one name; expected two runs of one model")
    parted = next((p for p in points if not p.relative <= tolerance), None)
    return Comparison((a.name, b.name), tolerance, points, parted)


def _points(a: Trace, b: Trace, head: int, tolerance: float) -> Iterator[Point]:
    for name, x in a.values.items():
        y = b.values.get(name)
        if y is None:
            continue
        if x.shape != y.shape:
            raise GraphLLMError(
                f"diff: {name}: {list(x.shape)} in {a.name}, {list(y.shape)} in {b.name}; not one model"
            )
        point = _point(name, x, y, reordered=False)
        if has_heads(name) and not point.relative <= tolerance and x.shape[1] % head == 0:
            others = [_point(name, x, order(y, head), reordered=True) for order in (half_split, interleaved)]
            point = min(point, *others, key=lambda p: p.relative)
        yield point


def half_split(x: Floats, head: int) -> Floats:
    """Heads of pairs side by side, their first elements before their second ones."""
    return x.reshape(len(x), -1, head // 2, 2).swapaxes(-1, -2).reshape(x.shape)


def interleaved(x: Floats, head: int) -> Floats:
    """The way back."""
    return x.reshape(len(x), -1, 2, head // 2).swapaxes(-1, -2).reshape(x.shape)


def _point(name: str, x: Floats, y: Floats, *, reordered: bool) -> Point:
    bad = tuple(int(np.count_nonzero(~np.isfinite(v))) for v in (x, y))
    with np.errstate(all="ignore"):
        u, v = (np.where(np.isfinite(w), w, 0).astype(np.float64) for w in (x, y))
        both_bad = ~np.isfinite(x) & ~np.isfinite(y)
        gap: NDArray[np.float64] = np.abs(u - v)
        norm, other = float(np.linalg.norm(u)), float(np.linalg.norm(v))
        apart = float(np.linalg.norm(gap))
    relative = apart / norm if norm else (0.0 if not apart else float("inf"))
    if bad[0] != int(both_bad.sum()) or bad[1] != int(both_bad.sum()):
        relative = float("inf")
        gap = np.where(np.isfinite(x) == np.isfinite(y), gap, np.inf)
    cosine = float(np.vdot(u, v)) / (norm * other) if norm and other else float(norm == other)
    row = int(gap.max(axis=1).argmax())
    return Point(name, layer_of_point(name), float(gap.max()), relative, cosine, (bad[0], bad[1]), row, reordered)
