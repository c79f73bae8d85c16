"""How surprised a model is by a text, and how far its predictions are from another's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.compiler.quality import log_softmax
from graphllm.errors import RunError
from graphllm.measure.evaluate.statistics import Mean, mean_of, share_interval
from graphllm.measure.evaluate.windows import Window, check_window, cut
from graphllm.runtime.engine import Engine

Floats = NDArray[np.float64]
Done = Callable[[int, int], None]  # tokens scored so far, of all


@dataclass(frozen=True, slots=True)
class Divergence:
    """A model against a reference p, over the same positions.

    Attributes:
        kl: mean of ``sum p log(p / q)``, nats a token, with its standard error; median, 99th percentile and largest.
        same_top: positions where both find one token likeliest.
        reference_nll: mean of the reference's own negative log probabilities.
    """

    kl: Mean
    kl_median: float
    kl_99: float
    kl_largest: float
    same_top: int
    reference_nll: Mean


@dataclass(frozen=True, slots=True)
class Perplexity:
    """Negative log probabilities of a text's tokens, nats.

    Attributes:
        tokens: scored; ``windows``: that they were cut into, of at most ``window`` positions, ``stride`` apart.
        bos: what each window began with, None for nothing.
        each: f64 [tokens], in order.
    """

    tokens: int
    windows: int
    window: int
    stride: int
    bos: int | None
    nll: Mean
    each: Floats
    against: Divergence | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.nll.value)

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "tokens": self.tokens,
            "windows": self.windows,
            "window": self.window,
            "stride": self.stride,
            "bos": self.bos,
            "nll": asdict(self.nll),
            "perplexity": self.perplexity,
            "perplexity_interval": [math.exp(self.nll.low), math.exp(self.nll.high)],
        }
        if (d := self.against) is not None:
            share, interval = d.same_top / self.tokens, list(share_interval(d.same_top, self.tokens))
            out["against"] = {**asdict(d), "same_top_share": share, "same_top_interval": interval}
            out["against"]["reference_perplexity"] = math.exp(d.reference_nll.value)
        return out


def perplexity(
    engine: Engine,
    ids: Sequence[int],
    *,
    window: int,
    stride: int,
    bos: int | None,
    reference: Engine | None = None,
    done: Done = lambda tokens, total: None,
) -> Perplexity:
    """Score a text, window by window (``evaluate.windows``); slot 0 is used.

    Args:
        reference: another model of the same vocabulary, whose predictions these are compared with.

    Raises:
        RunError: a window that does not fit, an id outside the vocabulary, no token to score, logits that are not
            numbers, or a reference of another vocabulary.
    """
    engines = (engine,) if reference is None else (engine, reference)
    if reference is not None and reference.vocab != engine.vocab:
        raise RunError(f"against: a vocabulary of {reference.vocab}; expected {engine.vocab}, that of the model")
    bad = next((i for i, t in enumerate(ids) if not 0 <= t < engine.vocab), None)
    if bad is not None:
        raise RunError(f"text: token {ids[bad]} at {bad}: not in the vocabulary; expected 0 to {engine.vocab - 1}")
    check_window(window, stride, min(e.context for e in engines))
    windows = list(cut(ids, window, stride, bos))
    total = sum(len(w.targets) for w in windows)
    if not total:
        raise RunError(f"text: {len(ids)} tokens and none to score; expected at least 2, or a BOS in front")
    own, others = np.empty(total), np.empty(total if reference is not None else 0)
    kl, same, at = np.empty(len(others)), 0, 0
    for one in windows:
        for rows, logits in _predictions(engines, one):
            p = [log_softmax(block) for block in logits]
            n, line = len(rows), np.arange(len(rows))
            own[at : at + n] = -p[0][line, rows]
            if reference is not None:
                others[at : at + n] = -p[1][line, rows]
                kl[at : at + n] = (np.exp(p[1]) * (p[1] - p[0])).sum(axis=-1)
                same += int((p[0].argmax(axis=-1) == p[1].argmax(axis=-1)).sum())
            at += n
            done(at, total)
    for samples in (own, kl):
        if not np.isfinite(samples).all():
            bad = int(np.flatnonzero(~np.isfinite(samples))[0])
            raise RunError(f"token {bad} of the text: the model's logits are not numbers; graphllm diff finds out why")
    divergence = _divergence(kl, same, others) if reference is not None else None
    return Perplexity(total, len(windows), window, stride, bos, mean_of(own), own, divergence)


def _divergence(kl: Floats, same: int, others: Floats) -> Divergence:
    middle, high = (float(q) for q in np.quantile(kl, (0.5, 0.99)))
    return Divergence(mean_of(kl), middle, high, float(kl.max()), same, mean_of(others))


def _predictions(
    engines: Sequence[Engine], window: Window
) -> Iterator[tuple[Sequence[int], list[NDArray[np.float32]]]]:
    """(targets, logits [n,V] of each engine) of a window, some positions at a time, those that are scored only."""
    skip = len(window.feed) - len(window.targets)
    streams = [_Rows(engine, window.feed) for engine in engines]
    at = 0
    while at < len(window.feed):
        n = min(stream.ready() for stream in streams)
        blocks = [stream.take(n) for stream in streams]
        first = max(0, skip - at)
        if first < n:
            targets = window.targets[at + first - skip : at + n - skip]
            yield targets, [block[first:] for block in blocks]
        at += n


class _Rows:
    """The logits of a window, taken in pieces of any size: two plans may have blocks of different lengths."""

    def __init__(self, engine: Engine, feed: Sequence[int]) -> None:
        engine.truncate(0)
        self._blocks = engine.score(feed)
        self._block = np.empty((0, engine.vocab), np.float32)

    def ready(self) -> int:
        """How many rows are there now."""
        if not len(self._block):
            self._block = next(self._blocks)
        return len(self._block)

    def take(self, n: int) -> NDArray[np.float32]:
        """The next n rows, good until more are asked for."""
        rows, self._block = self._block[:n], self._block[n:]
        return rows
