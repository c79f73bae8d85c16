"""The logits of one step: f32 as the model gave them, but for the few tokens that a bias or a penalty has changed.

A vocabulary is passed over in f32, which costs a fraction of f64; passes only leave out what cannot matter.
"""

from __future__ import annotations

from math import copysign, inf

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.device import WEIGHED
from graphllm.runtime.sampling.logits import refuse_unless_finite

Ids = NDArray[np.intp]
Values = NDArray[np.float64]

_ROWS = 64  # a maximum is of so many logits
_MOST_F32 = float(np.finfo(np.float32).max)


class Scores:
    """Of ``allowed`` tokens, one step after another.

    ``best`` is the largest score; the first token that has it, ``best_id``. Of ``changed`` tokens the scores are
    ``exact``; of all others they are in ``plain``, ``largest`` at most, where changed ones are -inf.
    """

    best: float
    best_id: int
    largest: float

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self._logits = self.plain = np.empty(0, np.float32)
        self._room = np.empty(allowed, np.float32)
        self.changed = np.empty(0, np.intp)
        self.exact = np.empty(0)
        self._place = np.zeros(allowed, np.int32)  # of a token among the changed ones, if it is one

    def take(self, logits: NDArray[np.float32], changed: Ids, exact: Values) -> None:
        """Score ``logits`` [allowed], but for ``changed`` tokens, in any order, whose scores are ``exact``.

        Raises RunError where a score is NaN or +inf, or all are -inf.
        """
        self._logits = self.plain = np.ascontiguousarray(logits)
        self.changed, self.exact = changed, exact
        changed_best = -np.inf
        if len(changed):
            self._place[changed] = np.arange(len(changed))
            self.plain = self._room
            np.copyto(self.plain, logits)
            self.plain[changed] = -np.inf
            changed_best = float(exact.max())
        first = int(self.plain.argmax())
        largest = float(self.plain[first])
        self.best = float(np.maximum(largest, changed_best))
        if not np.isfinite(self.best):
            refuse_unless_finite(self.best, self.all())
        ties = changed[exact == self.best]
        self.best_id = min(first if largest == self.best else self.allowed, int(ties.min(initial=self.allowed)))
        self.largest = largest

    def of(self, ids: Ids) -> Values:
        """Scores of some tokens."""
        found = self.plain[ids].astype(np.float64)
        if len(self.changed):
            places = np.minimum(self._place[ids], len(self.changed) - 1)
            np.copyto(found, self.exact[places], where=self.changed[places] == ids)
        return found

    def all(self) -> Values:
        """Every score."""
        found = self._logits.astype(np.float64)
        found[self.changed] = self.exact
        return found

    def not_below(self, bound: float) -> Ids:
        """Tokens whose score is ``bound`` or more, and maybe some that are hardly less; ascending."""
        return self._from(just_below(bound))

    def among_largest(self, k: int) -> Ids:
        """Tokens among which are the ``k`` largest, equals of the last one with them; ascending."""
        columns = self.allowed // _ROWS
        if k > columns // 4:
            return np.arange(self.allowed)
        whole = columns * _ROWS
        # k of the maxima are no less than the k-th of them: so is the k-th largest of all
        maxima = self.plain[:whole].reshape(_ROWS, columns).max(axis=0)
        return self._from(np.partition(maxima, -k)[-k])

    def block(self, first: int) -> Values:
        """Scores of ``WEIGHED`` successive tokens, an array of its own."""
        if not len(self.changed):
            return self.plain[first : first + WEIGHED].astype(np.float64)
        return self.of(np.arange(first, min(first + WEIGHED, self.allowed)))

    def weights_of(self, scores: Values, temperature: float) -> Values:
        """By the definition. ``scores`` are a caller's own array, which is used up."""
        scores -= self.best
        with np.errstate(over="ignore"):  # a tiny temperature: -inf, probability 0
            scores /= temperature
        return np.exp(scores, out=scores)

    def _from(self, low: float) -> Ids:
        """Tokens whose score is ``low`` or more, ascending."""
        return self.with_changed(np.flatnonzero(self.plain >= low), low)

    def with_changed(self, ids: Ids, low: float, high: float = np.inf) -> Ids:
        """``ids``, unchanged tokens, and those changed ones whose score is in [low, high); ascending."""
        if low == -np.inf:  # then all are there
            return ids
        more = self.changed[(self.exact >= low) & (self.exact < high)]
        return np.sort(np.concatenate([ids, more])) if len(more) else ids


def just_below(bound: float) -> float:
    """An f32 that is below."""
    return float(np.nextafter(np.float32(in_f32(bound)), np.float32(-np.inf)))


def in_f32(score: float) -> float:
    """As an f32; infinite where it is beyond."""
    return float(np.float32(score)) if abs(score) <= _MOST_F32 else copysign(inf, score)
