"""A difference as text: a line a layer, or a point, then where they part and why."""

from __future__ import annotations

from collections.abc import Sequence

from graphllm.measure.diff.bisect import PassStep, WeightEffect
from graphllm.measure.diff.compare import Comparison, Point
from graphllm.measure.diff.run import Difference
from graphllm.measure.diff.sides import Subject


def difference_text(d: Difference, *, every: bool = False) -> str:
    """The table and the verdict; ``every`` shows all points instead of the worst of each layer."""
    a, b = d.found.names
    told = d.apart if d.apart is not None else d.found
    head = ("", "relative", "largest", "cosine", "bad", "row")
    points = told.points if every else worst_by_layer(told)
    rows = [head, *(_row(p, told) for p in points)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [f"{a} against {b}: {len(d.found.points)} points, tolerance {told.tolerance:g}"]
    lines += [
        "  " + "  ".join([f"{row[0]:{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines += ["", d.verdict]
    lines += [f"  {name}: {made}" for name, made in zip(d.found.names, d.made, strict=True) if made]
    if d.found.parted is not None:
        lines += [f"  cause: {cause}" for cause in d.causes]
        if not d.causes and all(d.made):
            lines.append("  nothing that they read or are told differs: the code, or its rounding")
    return "\n".join(line.rstrip() for line in lines)


def worst_by_layer(found: Comparison) -> list[Point]:
    """The point of largest relative error of every layer, in order; alone those outside layers, and where they part."""
    out: list[Point] = []
    for point in found.points:
        apart = point is found.parted or (bool(out) and out[-1] is found.parted)
        if out and point.layer is not None and out[-1].layer == point.layer and not apart:
            out[-1] = _worse(out[-1], point)
        else:
            out.append(point)
    return out


def _worse(a: Point, b: Point) -> Point:
    return b if not b.relative <= a.relative else a


def _row(p: Point, found: Comparison) -> tuple[str, ...]:
    bad = f"{p.bad[0]}/{p.bad[1]}" if any(p.bad) else ""
    mark = " <" if found.parted is not None and p.name == found.parted.name else ""
    return (p.name + mark, f"{p.relative:.2e}", f"{p.largest:.2e}", f"{p.cosine:.6f}", bad, str(p.row))


def passes_text(steps: Sequence[PassStep]) -> str:
    """A line a pass that changed something: the largest error of any point, and where it parts."""
    rows = [("pass", "relative", "at"), *(_pass_row(step) for step in steps)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"  {r[0]:{widths[0]}}  {r[1]:>{widths[1]}}  {r[2]}" for r in rows]
    last = steps[-1] if steps else None
    if last is None or last.found.parted is None:
        verdict = "every pass keeps the meaning"
    else:
        verdict = f"the pass {last.name} changes the meaning, first at {last.found.parted.name}"
    return "\n".join([*lines, "", verdict])


def _pass_row(step: PassStep) -> tuple[str, str, str]:
    worst = step.found.parted or max(step.found.points, key=lambda p: p.relative)
    return step.name, f"{worst.relative:.2e}", worst.name


def weights_text(found: Sequence[WeightEffect], a: Subject, b: Subject) -> str:
    """A line for each weight that moves the logits."""
    if not found:
        return f"no weight of {b.path.name} moves the logits of {a.path.name}"
    lines = [f"weights of {b.path.name} in {a.path.name}, and how far the logits then move:"]
    for effect in found:
        more = f" and {len(effect.names) - 3} more, only together" if len(effect.names) > 3 else ""
        lines.append(f"  {effect.effect:.2e}  {', '.join(effect.names[:3])}{more}")
    return "\n".join(lines)
