"""Draws among all tokens, or those that top-p leaves, by sums over what tokens weigh.

A device sums up and counts, in f32 or nearly f64; a few tokens are weighed by the definition. What is not certain by
these is said not to be known.
"""

from __future__ import annotations

from math import exp, isfinite, log, sqrt

import numpy as np

from graphllm.runtime.device import BINS, BINS_PER_NAT, WEIGHED, Weigher
from graphllm.runtime.sampling import stages
from graphllm.runtime.sampling.scores import Ids, Scores, Values, in_f32, just_below
from graphllm.runtime.sampling.weights import NumpyWeights

_COLDEST = 1e-3  # temperature below which f32 may overflow
_HEADS = (2e-3, 5e-5)  # of the largest weight: what top-p keeps is usually above one of them
_MOST_HEADS = 16384
# Of a device's sums and of adding up a vocabulary in f64 one after the other, which is what they stand for: relative.
_EXACT = 4e-11
_ERRORS = {False: 1.6e-5, True: _EXACT}
_LEFT_OUT = {False: 2.6e-10, True: _EXACT}  # of all: weights that such sums need not have, and roundings of the total
_BIN_WEIGHTS = np.exp(-(np.arange(BINS) + 0.5) / BINS_PER_NAT)  # in the middle of each
_BIN_ERROR = 4 / BINS_PER_NAT / sqrt(12)  # of a weight that counts as the middle of its bin: four standard deviations


class Draws:
    """By the scores of one step after another."""

    def __init__(self, scores: Scores, weigher: Weigher | None = None) -> None:
        self._scores = scores
        self._weigher = NumpyWeights() if weigher is None else weigher
        self._below, self._beyond = np.empty((2, -(-scores.allowed // WEIGHED)))
        self._between = np.empty(_MOST_HEADS, np.int64)
        self._counts = np.empty(BINS, np.int32)
        self._flat = False  # the last draw was among tokens too many for sums in f32,
        self._large = False  # or for top-p to look at each of them

    def nucleus(self, temperature: float, p: float, least: float) -> tuple[Ids, Values] | None:
        """The tokens that top-p, then min-p of ``least`` leave, ascending, and their weights; the likeliest one's is 1.

        None where top-p leaves too many, or where another total of the same digits would leave others.
        """
        scores = self._scores
        if p * scores.allowed <= 1:  # the first of those that weigh most is enough
            ids = scores.not_below(scores.best - temperature * 1e-15)
            return ids[scores.weights_of(scores.of(ids), temperature) == 1][:1], np.ones(1)
        if temperature < _COLDEST:
            return None
        shares = [share for share in _HEADS if share > least] + ([least] if least else [])
        for share in shares:
            low = just_below(scores.best + temperature * log(share))
            count = self._weigh(temperature, low=low, between=self._between)
            if count > len(self._between):
                return None
            ids = scores.with_changed(self._between[:count], low)
            weights = scores.weights_of(scores.of(ids), temperature)
            less = scores.exact[scores.exact < low]
            held, lost = float(weights.sum()), float(scores.weights_of(less, temperature).sum())
            for exactly in (False, True):
                if exactly:
                    self._weigh(temperature, True, low)
                rest = lost + float(self._below.sum())
                error = 2 * _ERRORS[exactly] * rest + _LEFT_OUT[exactly] * held
                target, error = p * (1 - stages.ROUNDING) * (held + rest), p * error
                if held * (1 + _EXACT) < (target - error) * (1 - stages.ROUNDING):  # all of these stay, and more
                    if share == least:
                        return _likely(ids, weights, least)
                    break
                kept = stages.fewest(weights, target - error, target + error)
                if kept is not None:
                    return _likely(ids[kept], weights[kept], least)
        return None

    def among_all(self, temperature: float, uniform: float) -> int | None:
        """The token that ``uniform`` in [0, 1) falls on; None where that is nearer to another than sums can tell."""
        scores = self._scores
        if temperature < _COLDEST:
            return None
        exact = self._changed_weights(temperature)

        def block_at(first: int) -> Values:
            return scores.weights_of(scores.block(first), temperature)

        def token(exactly: bool) -> int | None:
            return stages.draw_by_sums(self._below, block_at, uniform, _ERRORS[exactly], _LEFT_OUT[exactly])

        for exactly in (True,) if self._flat else (False, True):
            self._weigh(temperature, exactly)
            self._add_changed(self._below, scores.changed, exact)
            chosen = token(exactly)
            if chosen is not None:
                self._flat = exactly and token(False) is None
                return chosen
        return None

    def among_nucleus(self, temperature: float, p: float, least: float, uniform: float) -> int | None:
        """The same among the tokens that top-p, then min-p of ``least`` leave; None where passes cannot tell which."""
        nucleus = None if self._large and not least else self.nucleus(temperature, p, least)
        if nucleus is None:
            return self._among_large_nucleus(temperature, p, least, uniform)
        ids, weights = nucleus
        return int(ids[stages.draw(weights, uniform)])

    def _among_large_nucleus(self, temperature: float, p: float, least: float, uniform: float) -> int | None:
        """Guess where its smallest token lies, weigh what lies apart from there, and look at the rest one by one."""
        scores = self._scores
        if temperature < _COLDEST or not isfinite(scores.largest):
            return None
        exact = self._changed_weights(temperature)
        low, high, count = self._smallest_of_nucleus(temperature, p, exact)
        self._large = count > _MOST_HEADS
        if not isfinite(low):
            return None
        count = self._weigh(temperature, True, low, high, self._between)
        if count > len(self._between):
            return None
        larger, smaller = self._beyond, float(self._below.sum())
        if len(exact):
            far = scores.exact >= high
            self._add_changed(larger, scores.changed[far], exact[far])
            smaller += float(exact[scores.exact < low].sum())
        ids = scores.with_changed(self._between[:count], low, high)
        weights = scores.weights_of(scores.of(ids), temperature)
        held = float(larger.sum())
        total = held + smaller + float(weights.sum())
        reached, error = p * (1 - stages.ROUNDING) * total - held, 2 * _EXACT * total
        if reached <= error:
            return None  # the smallest may lie among the larger ones
        kept = stages.fewest(weights, reached - error, reached + error)
        if kept is None:
            return None
        ids, weights = ids[kept], weights[kept]
        smallest = float(weights.min())
        least_of_them, most_of_them = (exp((edge - scores.best) / temperature) for edge in (low, high))
        apart = least_of_them * (1 + _EXACT) < smallest < most_of_them * (1 - _EXACT)  # from equals that lie elsewhere
        if not apart or smallest < least:
            return None
        self._add_changed(larger, ids, weights)

        def block_at(first: int) -> Values:
            values = scores.block(first)
            stay = values >= high
            some = ids[ids.searchsorted(first) : ids.searchsorted(first + WEIGHED)]
            stay[some - first] = True
            return np.where(stay, scores.weights_of(values, temperature), 0)

        return stages.draw_by_sums(larger, block_at, uniform, _EXACT, _EXACT)

    def _smallest_of_nucleus(self, temperature: float, p: float, exact: Values) -> tuple[float, float, int]:
        """Scores between which the smallest token probably lies that top-p leaves, -inf where they are not found.

        And about how many it leaves.
        """
        scores = self._scores
        self._weigher.histogram(scores.plain, temperature, scores.largest, self._counts)
        scale = self._scale(temperature)
        weights = _BIN_WEIGHTS if scale == 1 else _BIN_WEIGHTS * scale
        held = self._counts * weights
        if len(exact):
            bins = (scores.largest - scores.exact) / temperature * BINS_PER_NAT
            held += np.bincount(np.clip(bins, 0, BINS - 1).astype(np.intp), exact, BINS)
        ends = held.cumsum()
        target = p * float(ends[-1])
        middle = int(ends.searchsorted(target))
        # It is where 1-p of what lies above is p of what lies below: bins count that much for the error, too.
        larger, smaller = (float(held[part] @ weights[part]) for part in (slice(middle + 1), slice(middle, None)))
        error = _BIN_ERROR * sqrt((1 - p) ** 2 * larger + p**2 * smaller)
        first, last = (int(ends.searchsorted(edge)) for edge in (target - error, target + error))
        if last >= BINS - 1:
            return -np.inf, np.inf, scores.allowed
        low, high = (in_f32(scores.largest - edge * temperature / BINS_PER_NAT) for edge in (last + 1, first))
        above = float(np.nextafter(np.float32(high), np.float32(np.inf)))  # the largest is below that
        return low, above, int(self._counts[: middle + 1].sum())

    def _changed_weights(self, temperature: float) -> Values:
        exact = self._scores.exact
        return self._scores.weights_of(exact.copy(), temperature) if len(exact) else exact

    def _scale(self, temperature: float) -> float:
        """What the likeliest unchanged token weighs."""
        scores = self._scores
        return exp((scores.largest - scores.best) / temperature)

    def _weigh(
        self,
        temperature: float,
        exactly: bool = False,
        low: float = np.inf,
        high: float = np.inf,
        between: Ids | None = None,
    ) -> int:
        """Sum up what unchanged tokens weigh: ``_below`` a score, and ``_beyond`` another; how many are ``between``."""
        scores, below = self._scores, self._below
        beyond = self._beyond if high < np.inf else None
        if not isfinite(scores.largest):  # there is none
            below.fill(0)
            return 0
        count = self._weigher.weigh(
            scores.plain,
            temperature,
            scores.largest,
            below,
            exactly=exactly,
            low=low,
            high=high,
            beyond=beyond,
            between=between,
        )
        scale = self._scale(temperature)
        if scale != 1:
            below *= scale
            if beyond is not None:
                beyond *= scale
        return count

    def _add_changed(self, sums: Values, ids: Ids, weights: Values) -> None:
        if len(ids):
            sums += np.bincount(ids // WEIGHED, weights, len(sums))


def _likely(ids: Ids, weights: Values, least: float) -> tuple[Ids, Values]:
    """What min-p leaves."""
    if not least:
        return ids, weights
    kept = stages.min_p(weights, least)
    return ids[kept], weights[kept]
