"""What rounding to int8 cost: the error of each tensor, and on a text how far the model's predictions moved.

Figures are kept to six digits, so that equal compilations give equal plans.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.compiler.weights import WeightReader
from graphllm.errors import GraphLLMError
from graphllm.ir.core import Module, Weight
from graphllm.ir.ops import dequantize
from graphllm.plan.place import size_text
from graphllm.runtime.engine import Engine

Array = NDArray[Any]
WINDOW = 256  # tokens that a text is cut into, or fewer where the context is shorter
_BLOCK = 1 << 20  # elements compared at a time


@dataclass(frozen=True, slots=True)
class TensorError:
    """A stored matrix against what it was rounded from.

    Attributes:
        name: of the int8 tensor; ``source`` of what it was made from.
        relative: root mean square of the error over that of the matrix, ``||w - w'|| / ||w||``; 0 for zeros.
        largest: of all elements' errors.
        before, after: bytes, scales included.
    """

    name: str
    source: str
    relative: float
    largest: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class TextCost:
    """Predictions of the rounded model p' against those of the model p, over a text.

    Attributes:
        tokens: positions compared; ``window``: tokens that see each other.
        kl: mean over positions of ``sum p log(p / p')``, nats (Kullback and Leibler 1951); ``kl_error`` its standard
            error.
        top1: share of positions where both find the same token most likely.
        perplexity, perplexity_before: exp of the mean negative log probability of the text's next tokens, rounded and
            not.
    """

    tokens: int
    window: int
    kl: float
    kl_error: float
    top1: float
    perplexity: float
    perplexity_before: float


def tensor_errors(module: Module, evaluate: WeightReader) -> Iterator[TensorError]:
    """The error of every matrix of a module that ``quantize-int8`` rounded, one after the other."""
    for weight in module.stored_weights():
        op = weight.definition
        if op is None or op.name != "quantize_groups":
            continue
        source, scale = op.operands
        assert isinstance(source, Weight)
        assert isinstance(scale, Weight)
        group = int(str(op.attrs["group"]))
        error, largest = _error(evaluate(source), evaluate(weight), evaluate(scale), group)
        after = weight.type.bytes + scale.type.bytes
        yield TensorError(weight.name, source.name, _digits(error), _digits(largest), source.type.bytes, after)


def _error(exact: Array, q: Array, scale: Array, group: int) -> tuple[float, float]:
    """(relative error, largest error) of a matrix, some rows at a time."""
    off = all_of = largest = 0.0
    step = max(1, _BLOCK // exact.shape[1])
    for first in range(0, len(exact), step):
        rows = slice(first, first + step)
        w = exact[rows].astype(np.float64)
        d: NDArray[np.float64] = w - dequantize(q[rows], scale[rows].astype(np.float64), group=group)
        off, all_of = off + float(np.vdot(d, d)), all_of + float(np.vdot(w, w))
        largest = max(largest, float(np.abs(d).max(initial=0)))
    return (math.sqrt(off / all_of) if all_of else 0.0), largest


def read_text(path: Path) -> str:
    """A calibration text. Raises GraphLLMError for a file that cannot be read, or is not UTF-8, or has no text."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise GraphLLMError(f"calibrate: {path}: cannot be read; {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise GraphLLMError(f"calibrate: {path}: not UTF-8 at byte {error.start}; expected text") from None
    if not text.strip():
        raise GraphLLMError(f"calibrate: {path}: no text in it; expected some paragraphs")
    return text


def text_cost(exact: Engine, rounded: Engine, ids: Sequence[int]) -> TextCost:
    """Compare two models of one vocabulary on a text's tokens. Raises GraphLLMError for fewer than 2 tokens."""
    if len(ids) < 2:
        raise GraphLLMError(f"calibrate: {len(ids)} token; expected at least 2, and better some thousand")
    window = min(WINDOW, exact.context, rounded.context)
    divergences: list[NDArray[np.float64]] = []
    same = 0
    surprise = [0.0, 0.0]
    predicted = 0
    for first in range(0, len(ids), window):
        part = ids[first : first + window]
        at = 0
        for engine in (exact, rounded):
            engine.truncate(0)
        for p_logits, q_logits in zip(exact.score(part), rounded.score(part), strict=True):
            p, q = log_softmax(p_logits), log_softmax(q_logits)
            divergences.append((np.exp(p) * (p - q)).sum(axis=-1))
            same += int((p.argmax(axis=-1) == q.argmax(axis=-1)).sum())
            following = np.asarray(part[at + 1 : at + 1 + len(p)], np.intp)
            rows = np.arange(len(following))
            for i, log_p in enumerate((p, q)):
                surprise[i] -= float(log_p[rows, following].sum())
            predicted += len(following)
            at += len(p)
    kl = np.concatenate(divergences)
    before, after = (math.exp(s / predicted) for s in surprise)
    spread = float(kl.std(ddof=1)) / math.sqrt(len(kl))
    figures: list[float] = [float(kl.mean()), spread, same / len(kl), after, before]
    return TextCost(len(kl), window, *map(_digits, figures))


def log_softmax(logits: Array) -> NDArray[np.float64]:
    """Log probabilities f64 [n,V] of logits [n,V]."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _digits(x: float) -> float:
    return float(f"{x:.6g}")


def as_json(errors: Sequence[TensorError], text: TextCost | None) -> dict[str, Any]:
    """For the plan's report."""
    return {"tensors": [asdict(e) for e in errors], "text": asdict(text) if text is not None else None}


def quality_text(errors: Sequence[TensorError], text: TextCost | None, worst: int = 10) -> str:
    """What rounding cost, as a short table."""
    tensors = sorted(errors, key=lambda e: -e.relative)
    names = [e.name if e.name.isprintable() else repr(e.name) for e in tensors[:worst]]
    width = max(6, *map(len, names)) if names else 6
    lines = ["Rounded to int8", f"  {'tensor':{width}}  relative error     largest"]
    lines += [
        f"  {name:{width}}  {e.relative:14.5f}  {e.largest:10.3g}" for name, e in zip(names, tensors, strict=False)
    ]
    if len(tensors) > worst:
        lines.append(f"  and {len(tensors) - worst} more, none worse")
    before, after = sum(e.before for e in tensors), sum(e.after for e in tensors)
    lines.append(f"  {len(tensors)} tensors, {size_text(before)} before, {size_text(after)} after")
    if text is not None:
        lines += [
            f"  on {text.tokens} tokens, {text.window} at a time:",
            f"    KL divergence        {text.kl:.6f} +- {text.kl_error:.6f} nats a token",
            f"    same likeliest token {100 * text.top1:.2f} %",
            f"    perplexity           {text.perplexity:.4f}, unrounded {text.perplexity_before:.4f}",
        ]
    return "\n".join(lines)
