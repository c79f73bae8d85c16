"""Two sides run on the same tokens, compared, and where they part explained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphllm.errors import GraphLLMError
from graphllm.measure.diff.compare import Comparison, compare
from graphllm.measure.diff.explain import causes, made_by
from graphllm.measure.diff.sides import Side, Subject
from graphllm.measure.diff.trace import Trace


@dataclass(frozen=True, slots=True)
class Difference:
    """What a comparison found.

    Attributes:
        made: how each of the two makes the value where they part, as IR; '' where there is none.
        causes: what differs between the last values that agree and that one, the likeliest first.
        apart: the comparison with every operation in a kernel of its own, where kernels had kept values to themselves
            and the two part.
        traces: all values of both.
    """

    found: Comparison
    made: tuple[str, str]
    causes: tuple[str, ...]
    apart: Comparison | None
    traces: tuple[Trace, Trace]

    @property
    def verdict(self) -> str:
        """Where they part, in a line."""
        a, b = self.found.names
        parted = self.found.parted
        if parted is None:
            return f"{a} and {b} agree at all {len(self.found.points)} points"
        if self.apart is None:
            return f"{a} and {b} part at {parted.name}"
        if self.apart.parted is None:
            return (
                f"{a} and {b} part at {parted.name}, and agree with each operation by itself: the fused kernel is wrong"
            )
        return f"{a} and {b} part at {self.apart.parted.name}, seen with each operation by itself"

    def as_json(self) -> dict[str, Any]:
        return {
            **self.found.as_json(),
            "verdict": self.verdict,
            "made": list(self.made),
            "causes": list(self.causes),
            "apart": self.apart.as_json() if self.apart is not None else None,
        }


def difference(a: Side, b: Side, head: int, tolerance: float = 0.0) -> Difference:
    """Run both sides and compare them.

    Args:
        head: elements of a head, d; ``tolerance``: relative error from which they part, 0 to choose it by formats.

    Raises:
        GraphLLMError: the two are not of one model, or a side cannot be run.
    """
    _same_model(a.subject, b.subject)
    first, second = a.run(False), b.run(False)
    found = compare(first, second, head, tolerance)
    apart = None
    if found.parted is not None and (a.fused or b.fused):
        first, second = (s.run(True) if s.fused else t for s, t in ((a, first), (b, second)))
        apart = compare(first, second, head, tolerance)
    told = apart if apart is not None and apart.parted is not None else found
    made = ("", "")
    if told.parted is not None:
        name = told.parted.name
        made = tuple(made_by(t.source, name) if t.source is not None else "" for t in (first, second))
    return Difference(found, (made[0], made[1]), tuple(causes(first, second, told, head)), apart, (first, second))


def _same_model(a: Subject | None, b: Subject | None) -> None:
    if a is None or b is None or a is b:
        return
    for name in ("layers", "dim", "vocab", "heads", "kv_heads", "head_dim", "ffn_dim"):
        x, y = getattr(a.config, name), getattr(b.config, name)
        if x != y:
            raise GraphLLMError(f"diff: {name} is {x} in {a.path.name} and {y} in {b.path.name}; not one model")
