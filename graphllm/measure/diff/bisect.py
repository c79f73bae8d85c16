"""Which pass, or which weight: the compilation, or two sets of weights, searched for what moves the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.compile import weights_of
from graphllm.compiler.options import Options
from graphllm.compiler.weights import WeightReader
from graphllm.errors import GraphLLMError
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.trace import trace
from graphllm.ir.core import Module, Weight
from graphllm.measure.diff.compare import FINEST, Comparison, compare, tolerance_for
from graphllm.measure.diff.explain import readable
from graphllm.measure.diff.interpreted import interpreted
from graphllm.measure.diff.points import LOGITS
from graphllm.measure.diff.sides import Subject
from graphllm.measure.diff.trace import Array, Kind, Source, Trace, base_name, formats
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering, portable

_ROUNDING: Final = 50  # how much finer passes that change no format agree than the formats themselves


@dataclass(frozen=True, slots=True)
class PassStep:
    """A pass, and the module before it against the module after it."""

    name: str
    found: Comparison

    def as_json(self) -> dict[str, Any]:
        return {"pass": self.name, **self.found.as_json()}


def bisect_passes(checkpoint: Path, options: Options, ids: Sequence[int], kind: Kind) -> list[PassStep]:
    """Interpret a checkpoint's module before and after every pass. The first whose ``found.parted`` is not None is
    where the meaning changes.

    Raises:
        CheckpointError: it cannot be read.
        PassError: a pass left a module that breaks the language's rules.
    """
    opened = open_checkpoint(checkpoint, options.overrides)
    module = trace(opened.config, weights_of(opened), opened.group, options.steps(opened.config.context))
    module = replace(module, functions={n: f for n, f in module.functions.items() if n.split("_")[0] == kind})
    read = WeightReader(lambda w: opened.tensors[w.name].read(), lambda: None)  # arrays are kept while it runs
    passes = (*portable(options.dtype, options.quantize), *lowering(BACKENDS[options.target].target))
    before = interpreted("traced", module, read, ids, kind)
    out: list[PassStep] = []
    for step in passes:
        changed, _ = run_passes(module, [step])
        if changed == module:
            continue
        module = changed
        after = interpreted(step.name, module, read, ids, kind)
        out.append(PassStep(step.name, compare(before, after, opened.config.head_dim, _tolerance(before, after))))
        if out[-1].found.parted is not None:
            break
        before = after
    return out


def _tolerance(before: Trace, after: Trace) -> float:
    """What formats allow where a pass changes them; much less where it does not."""
    assert before.source is not None
    assert after.source is not None
    same = before.noise == after.noise and formats(before.source.module) == formats(after.source.module)
    return max(FINEST, before.noise / _ROUNDING) if same else tolerance_for(before, after)


@dataclass(frozen=True, slots=True)
class WeightEffect:
    """Weights of the second model put into the first, and how far the logits then move, relative to them."""

    names: tuple[str, ...]
    effect: float


def bisect_weights(
    a: Subject,
    b: Subject,
    ids: Sequence[int],
    kind: Kind,
    tolerance: float,
    done: Callable[[int, int], None] = lambda n, total: None,
) -> list[WeightEffect]:
    """The weights of ``b`` that, put into ``a``, move its logits by more than the tolerance: single ones where single
    ones do, the largest effect first. Empty where no weights do, all together.

    Raises:
        GraphLLMError: the two have no weights of one name.
    """
    own, others = ({base_name(w): w for w in s.module.stored_weights()} for s in (a, b))
    common = [n for n in own if n in others and _fits(own[n], others[n])]
    if not common:
        raise GraphLLMError(f"bisect: {a.path.name} and {b.path.name} have no weights of one name; not one model")
    sources = [Source(s.module, next(iter(s.module.functions.values())), s.read) for s in (a, b)]
    differing = [
        n for n in common if not np.array_equal(_value(own[n], sources[0]), _as(own[n], others[n], sources[1]))
    ]
    exact = _logits(a.module, a.read, ids, kind)
    tried = 0

    def effect(names: Sequence[str]) -> float:
        nonlocal tried
        swapped = {own[n].name: n for n in names}

        def read(weight: Weight) -> Array:
            name = swapped.get(weight.name)
            return _as(weight, others[name], sources[1]) if name is not None else a.read(weight)

        tried += 1
        done(tried, max(tried, 2 * len(differing)))
        moved = _logits(a.module, read, ids, kind)
        gap = float(np.linalg.norm(moved - exact)) / (float(np.linalg.norm(exact)) or 1.0)
        return gap if np.isfinite(gap) else float("inf")

    def search(names: list[str]) -> list[WeightEffect]:
        size = effect(names) if names else 0.0
        if size <= tolerance:
            return []
        if len(names) == 1:
            return [WeightEffect(tuple(names), size)]
        half = len(names) // 2
        found = search(names[:half]) + search(names[half:])
        return found or [WeightEffect(tuple(names), size)]

    return sorted(search(differing), key=lambda e: -e.effect)


def _logits(module: Module, read: Callable[[Weight], Array], ids: Sequence[int], kind: Kind) -> Array:
    return interpreted("", module, read, ids, kind).values[LOGITS].astype(np.float64)


def _fits(own: Weight, other: Weight) -> bool:
    """Whether the other's numbers can take the own one's place."""
    return own.type.shape == other.type.shape and (own.type == other.type or own.type.dtype != "i8")


def _value(weight: Weight, source: Source) -> Array:
    return source.read(weight)


def _as(own: Weight, other: Weight, source: Source) -> Array:
    """The other weight's numbers in the own one's type."""
    return source.read(other) if own.type == other.type else readable(other, source).astype(own.type.numpy)
