"""The logits of one step: f32 as the model gave them, but for the few tokens that a bias or a penalty has changed.

A vocabulary is passed over in f32, which costs a fraction of f64. What is decided on it is decided exactly: passes only
leave out what cannot matter, or say that they do not know.
"""

from __future__ import annotations

from math import exp, isfinite, log

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.device import WEIGHED, Weigh
from graphllm.runtime.sampling import stages
from graphllm.runtime.sampling.logits import refuse_unless_finite
from graphllm.runtime.sampling.weights import NumpyWeights

Ids = NDArray[np.intp]
Values = NDArray[np.float64]

_ROWS = 64  # a maximum is of so many logits
_COLDEST = 1e-3  # temperature below which f32 may overflow
_HEADS = (2e-3, 5e-5)  # of the largest weight: what top-p keeps is usually above one of them
_MOST_HEADS = 16384
# Of a device's sums and of adding up a vocabulary in f64 one after the other, which is what they stand for: relative.
INEXACT = 2e-11
_ERRORS = {False: 1.6e-5, True: INEXACT}
_LEFT_OUT = {False: 2.6e-10, True: INEXACT}  # of all: weights that such sums need not have, and roundings of the total


class Scores:
    """Of ``allowed`` tokens, one step after another.

    ``best`` is the largest score; the first token that has it, ``best_id``.
    """

    best: float
    best_id: int

    def __init__(self, allowed: int, weigh: Weigh | None = None) -> None:
        self._allowed = allowed
        self._weigh = NumpyWeights() if weigh is None else weigh
        self._logits = self._plain = np.empty(0, np.float32)
        self._room = np.empty(allowed, np.float32)
        self._changed = np.empty(0, np.intp)
        self._exact = np.empty(0)  # of changed tokens
        self._place = np.zeros(allowed, np.int32)  # of a token among the changed ones, if it is one
        self._sums = np.empty(-(-allowed // WEIGHED))
        self._weights: Values | None = None
        self._above = np.empty(_MOST_HEADS, np.int64)

    def take(self, logits: NDArray[np.float32], changed: Ids, exact: Values) -> None:
        """Score ``logits`` [allowed], but for ``changed`` tokens, in any order, whose scores are ``exact``.

        Raises RunError where a score is NaN or +inf, or all are -inf.
        """
        self._logits = self._plain = np.ascontiguousarray(logits)
        self._changed, self._exact = changed, exact
        changed_best = -np.inf
        if len(changed):
            self._place[changed] = np.arange(len(changed))
            self._plain = self._room
            np.copyto(self._plain, logits)
            self._plain[changed] = -np.inf
            changed_best = float(exact.max())
        first = int(self._plain.argmax())
        largest = float(self._plain[first])
        self.best = float(np.maximum(largest, changed_best))
        if not np.isfinite(self.best):
            refuse_unless_finite(self.best, self.all())
        ties = changed[exact == self.best]
        self.best_id = min(first if largest == self.best else self._allowed, int(ties.min(initial=self._allowed)))
        self._largest = largest

    def of(self, ids: Ids) -> Values:
        """Scores of some tokens."""
        found = self._plain[ids].astype(np.float64)
        if len(self._changed):
            places = np.minimum(self._place[ids], len(self._changed) - 1)
            np.copyto(found, self._exact[places], where=self._changed[places] == ids)
        return found

    def all(self) -> Values:
        """Every score."""
        found = self._logits.astype(np.float64)
        found[self._changed] = self._exact
        return found

    def not_below(self, bound: float) -> Ids:
        """Tokens whose score is ``bound`` or more, and maybe some that are hardly less; ascending."""
        return self._from(_just_below(bound))

    def among_largest(self, k: int) -> Ids:
        """Tokens among which are the ``k`` largest, equals of the last one with them; ascending."""
        columns = self._allowed // _ROWS
        if k > columns // 4:
            return np.arange(self._allowed)
        whole = columns * _ROWS
        # k of the maxima are no less than the k-th of them: so is the k-th largest of all
        maxima = self._plain[:whole].reshape(_ROWS, columns).max(axis=0)
        return self._from(np.partition(maxima, -k)[-k])

    def nucleus(self, temperature: float, p: float) -> tuple[Ids, Values] | None:
        """The tokens that top-p leaves, ascending, and their weights, where the likeliest one's is 1.

        None where they are too many, or where another total of the same digits would leave others.
        """
        if temperature < _COLDEST:
            return None
        for share in _HEADS:
            low = _just_below(self.best + temperature * log(share))
            count = self._weigh_plain(temperature, below=float(low), above=self._above)
            if count > len(self._above):
                return None
            ids = self._with_changed(self._above[:count], low)
            weights = self.weights_of(self.of(ids), temperature)
            less = self._exact[self._exact < low]
            held, lost = float(weights.sum()), float(self.weights_of(less, temperature).sum())
            for exactly in (False, True):
                if exactly:
                    self._weigh_plain(temperature, True, float(low))
                rest = lost + float(self._sums.sum())
                if held < p * (held + rest) * (1 + 4 * _ERRORS[False]):
                    break  # too few
                error = 2 * _ERRORS[exactly] * rest + _LEFT_OUT[exactly] * held
                kept = stages.nucleus(weights, p, held + rest - error, held + rest + error)
                if kept is not None:
                    return ids[kept], weights[kept]
        return None

    def draw(self, temperature: float, uniform: float) -> int | None:
        """The token that ``uniform`` in [0, 1) falls on; None where that is nearer to another than sums can tell."""
        if temperature < _COLDEST:
            return None
        exact = self.weights_of(self._exact.copy(), temperature)

        def block_at(first: int) -> Values:
            return self.weights_of(self.of(np.arange(first, min(first + WEIGHED, self._allowed))), temperature)

        for exactly in (False, True):
            self._weigh_plain(temperature, exactly)
            if len(exact):
                self._sums += np.bincount(self._changed // WEIGHED, exact, len(self._sums))
            token = stages.draw_by_sums(self._sums, block_at, uniform, _ERRORS[exactly], _LEFT_OUT[exactly])
            if token is not None:
                return token
        return None

    def weights(self, temperature: float) -> Values:
        """Every token's weight, within ``INEXACT`` of it, where the likeliest one's is 1. Good until the next call."""
        if temperature < _COLDEST or not isfinite(self._largest):
            return self.weights_of(self.all(), temperature)
        if self._weights is None:
            self._weights = np.empty(self._allowed)
        self._weigh_plain(temperature, True, weights=self._weights)
        scale = self._scale(temperature)
        if scale != 1:
            self._weights *= scale
        self._weights[self._changed] = self.weights_of(self._exact.copy(), temperature)
        return self._weights

    def weights_of(self, scores: Values, temperature: float) -> Values:
        """By the definition. ``scores`` are a caller's own array, which is used up."""
        scores -= self.best
        with np.errstate(over="ignore"):  # a tiny temperature: -inf, probability 0
            scores /= temperature
        return np.exp(scores, out=scores)

    def _scale(self, temperature: float) -> float:
        """What the likeliest unchanged token weighs."""
        return exp((self._largest - self.best) / temperature)

    def _weigh_plain(
        self,
        temperature: float,
        exactly: bool = False,
        below: float = np.inf,
        *,
        weights: Values | None = None,
        above: Ids | None = None,
    ) -> int:
        """Put into ``_sums`` what unchanged tokens below a score weigh; how many are not below, which are ``above``."""
        if not isfinite(self._largest):  # there is none
            self._sums.fill(0)
            return 0
        sums, largest = self._sums, self._largest
        count = self._weigh(
            self._plain, temperature, largest, below, sums, exactly=exactly, weights=weights, above=above
        )
        scale = self._scale(temperature)
        if scale != 1:
            sums *= scale
        return count

    def _from(self, low: np.float32) -> Ids:
        """Tokens whose score is ``low`` or more, ascending."""
        return self._with_changed(np.flatnonzero(self._plain >= low), low)

    def _with_changed(self, ids: Ids, low: np.float32) -> Ids:
        """``ids``, unchanged tokens, and those changed ones whose score is ``low`` or more; ascending."""
        if low == -np.inf:  # then all are there
            return ids
        more = self._changed[self._exact >= low]
        return np.sort(np.concatenate([ids, more])) if len(more) else ids


def _just_below(bound: float) -> np.float32:
    with np.errstate(over="ignore"):  # a penalty may take a score beyond f32
        return np.nextafter(np.float32(bound), np.float32(-np.inf))
