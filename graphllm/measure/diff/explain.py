"""Why two runs part where they do: what lies between the last values that agree and the first that does not.

Where both have IR, the operations of that stretch are compared: one that only one of them has, attributes that differ,
weights of one name with other numbers, and RoPE by what it did. Where one has none, the difference itself is looked at
(``from_values``). What is found is told in order of how sure it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from graphllm.ir.core import Operation, State, Weight
from graphllm.ir.ops import dequantize, rope
from graphllm.ir.printer import print_attr
from graphllm.measure.diff.compare import Comparison, half_split, interleaved
from graphllm.measure.diff.from_values import guesses
from graphllm.measure.diff.points import ROTATED, ROTATION, point_of
from graphllm.measure.diff.trace import Array, Floats, Source, Trace

_SILENT = frozenset({"reshape", "split", "cast", "dequantize", "kv_write", "embed", "take_rows", "quantize_rows"})
_ELEMENTS = 1 << 22  # compared at a time


def causes(a: Trace, b: Trace, found: Comparison, head: int) -> list[str]:
    """What may have made the two part, the likeliest first; empty where nothing differs but the numbers."""
    if found.parted is None:
        return []
    point = found.parted.name
    out = _rotations(a, b, found, head) if point.endswith(ROTATED) else []
    if a.source is None or b.source is None:
        return out or guesses(a, b, found, head)
    first, second = stretch(a.source, point, found.agreed), stretch(b.source, point, found.agreed)
    out += _weights(a.source, b.source, first, second)
    out += _attributes(a.name, b.name, first, second)
    out += _missing(a.name, b.name, first, second)
    return out


def stretch(source: Source, point: str, agreed: frozenset[str]) -> list[Operation]:
    """The operations behind a point's value, back to values that agree, in program order."""
    made = {id(v): op for op in source.function.walk() for v in op.results}
    pending = [v for op in source.function.walk() for v in op.results if point_of(v.name) == point]
    inside: set[int] = set()
    while pending:
        value = pending.pop()
        op = made.get(id(value))
        if op is None or id(op) in inside or (point_of(value.name) or "") in agreed - {point}:
            continue
        inside.add(id(op))
        pending += [v for v in op.operands if not isinstance(v, Weight | State)]
    return [op for op in source.function.walk() if id(op) in inside]


def _attributes(a: str, b: str, first: Iterable[Operation], second: Iterable[Operation]) -> list[str]:
    """Operations of one kind whose attributes differ."""
    out: list[str] = []
    kinds = [{op.name: op.attrs for op in ops if op.name not in _SILENT} for ops in (first, second)]
    for name in kinds[0].keys() & kinds[1].keys():
        for key in kinds[0][name].keys() | kinds[1][name].keys():
            x, y = (k[name].get(key) for k in kinds)
            if x is not None and y is not None and x != y:
                out.append(f"{name}: {key} is {print_attr(x)} in {a}, {print_attr(y)} in {b}")
    return sorted(out)


def _missing(a: str, b: str, first: Iterable[Operation], second: Iterable[Operation]) -> list[str]:
    """Operations that one has more often than the other."""
    ops = [list(first), list(second)]
    counts = [Counter(op.name for op in side if op.name not in _SILENT) for side in ops]
    out: list[str] = []
    for name, here, there, side in ((a, counts[0], counts[1], ops[0]), (b, counts[1], counts[0], ops[1])):
        for kind in here - there:
            reads = sorted({v.ref for op in side if op.name == kind for v in op.operands if isinstance(v, Weight)})
            what = f", which reads {', '.join(reads[:3])}" if reads else ""
            out.append(f"{kind}: only in {name}{what}")
    return out


def _weights(a: Source, b: Source, first: Iterable[Operation], second: Iterable[Operation]) -> list[str]:
    """Weights of one name and type whose numbers differ."""
    names = [{v.name: v for op in ops for v in op.operands if isinstance(v, Weight)} for ops in (first, second)]
    out: list[str] = []
    for name in names[0]:
        other = names[1].get(name)
        if other is None or other.type != names[0][name].type:
            continue
        said = weight_difference(a.read(names[0][name]), b.read(other))
        if said:
            out.append(f"weight @{name}: {said}")
    return out


def weight_difference(x: Array, y: Array) -> str:
    """In words how two arrays of one shape differ, '' where they do not."""
    flat, other = x.reshape(-1), y.reshape(-1)
    count, largest, at = 0, -1.0, 0
    for first in range(0, flat.size, _ELEMENTS):
        u, v = (w[first : first + _ELEMENTS].astype(np.float64) for w in (flat, other))
        unequal = ~((u == v) | (np.isnan(u) & np.isnan(v)))
        count += int(unequal.sum())
        gap = np.where(unequal, np.nan_to_num(np.abs(u - v), nan=np.inf), -1.0)
        if gap.size and float(gap.max()) > largest:
            largest, at = float(gap.max()), first + int(gap.argmax())
    if not count:
        return ""
    place = ",".join(str(int(i)) for i in np.unravel_index(at, x.shape))
    return f"{count} of {flat.size} elements differ, most by {largest:.3g} at [{place}]"


def readable(weight: Weight, source: Source) -> Floats:
    """A weight as f32, int8 groups multiplied out."""
    op = weight.definition
    array = source.read(weight)
    if op is not None and op.name == "quantize_groups":
        scale = op.operands[1]
        assert isinstance(scale, Weight)
        return dequantize(array, source.read(scale).astype(np.float32), group=int(str(op.attrs["group"])))
    return array.astype(np.float32)


def _rotations(a: Trace, b: Trace, found: Comparison, head: int) -> list[str]:
    """How each of the two paired a head's elements, from what went in and came out."""
    assert found.parted is not None
    name = found.parted.name
    turn = next((t.values[ROTATION] for t in (a, b) if ROTATION in t.values), None)
    given = name.replace("_rotated", "_norm") if name.replace("_rotated", "_norm") in a.values else ""
    given = given or name.replace("_rotated", "_proj")
    if turn is None or given not in a.values or given not in b.values:
        return []
    x = a.values[given].reshape(len(turn), -1, head)
    turns = turn.reshape(len(turn), head // 2, 2)
    ways = {pairing: rope(x, turns, pairing=pairing).reshape(len(x), -1) for pairing in ("half", "interleaved")}
    said: list[str] = []
    for trace in (a, b):
        y = trace.values[name]
        orders = (y, half_split(y, head), interleaved(y, head))
        match = next((p for p, w in ways.items() if any(_near(w, o, found.tolerance) for o in orders)), None)
        said.append(f"{match or 'in another way'} in {trace.name}")
    if said[0].split(" in ")[0] == said[1].split(" in ")[0]:
        return []
    return [f"rope: pairs a head's elements {said[0]}, {said[1]}"]


def _near(x: Floats, y: Floats, tolerance: float) -> bool:
    return float(np.linalg.norm(x - y)) <= tolerance * float(np.linalg.norm(x))


def made_by(source: Source, point: str) -> str:
    """The operation that makes a point's value, as IR without its types."""
    op = source.maker(point)
    if op is None:
        return ""
    attrs = ", ".join(f"{k}={print_attr(v)}" for k, v in op.attrs.items())
    operands = ", ".join(v.ref for v in op.operands)
    return f"{', '.join(v.ref for v in op.results)} = {op.name} {operands}" + (f" {{{attrs}}}" if attrs else "")
