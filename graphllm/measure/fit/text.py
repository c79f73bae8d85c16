"""The answer as a table."""

from __future__ import annotations

from graphllm.measure.fit.check import Fit
from graphllm.view.units import bytes_text


def fit_text(fit: Fit) -> str:
    """A page: what takes how much, what is left, how much more would fit."""
    f = fit.footprint
    left = fit.room - f.total
    rows = [
        ("weights", f.weights, "copied to the device" if fit.target == "cuda" else "mapped from the plan"),
        ("weights, converted", f.converted, "held beside, in another form or place"),
        ("KV cache", f.states, _cache(fit)),
        ("arena", f.arena, "activations of the largest step"),
        ("workspace", f.workspace, "of launches, and to align" if fit.target == "cuda" else "of threads"),
        ("total", f.total, ""),
        ("there is", fit.room, ""),
        ("left" if left >= 0 else "lacking", abs(left), ""),
    ]
    shown = [row for row in rows if row[1] or row[0] in ("total", "left", "lacking")]
    lines = [f"on {fit.target}: {'fits' if fit.fits else 'does not fit'}"]
    lines += [f"  {what:18}  {count:>15,}  {bytes_text(count):>9}  {why}".rstrip() for what, count, why in shown]
    lines.append("")
    lines.append(_largest("context", fit.largest_context, fit.context_limit, f"with {_count(fit.slots, 'sequence')}"))
    lines.append(_largest("batch", fit.largest_slots, 0, f"with {fit.context:,} positions each"))
    return "\n".join(lines)


def _cache(fit: Fit) -> str:
    each = f"{fit.position:,} bytes a position in {fit.kv_dtype}"
    return f"{_count(fit.slots, 'sequence')} of {fit.context:,} positions, {each}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' if n != 1 else ''}"


def _largest(what: str, n: int, limit: int, given: str) -> str:
    if not n:
        return f"  largest {what:8}  none fits {given}"
    most = ", all that the model claims" if n == limit else ""
    return f"  largest {what:8}  {n:>7,}  {given}{most}"
