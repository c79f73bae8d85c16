"""The logits of one step: f32 as the model gave them, but for the few tokens that a bias or a penalty has changed.

A vocabulary is passed over in f32, which costs a fraction of f64. What is decided on it is decided exactly: passes only
leave out what cannot matter, or say that they do not know.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.sampling.logits import refuse_unless_finite

Ids = NDArray[np.intp]
Values = NDArray[np.float64]

_ROWS = 64  # a maximum is of so many logits
_COLUMNS = 128  # a sum of weights is of so many tokens
_ERROR = 1.6e-5  # of a sum of weights, relative: f32 exponents down to -40, exp, and _COLUMNS additions
_COLDEST = 1e-3  # below, f32 may overflow
_LOG_MOST = 60.0  # of a changed token's weight
_HEADS = (2e-3, 5e-5)  # of the largest weight: what top-p keeps is usually above one of them
_MOST_HEADS = 16384


class Scores:
    """Of ``allowed`` tokens, one step after another.

    ``best`` is the largest score; the first token that has it, ``best_id``.
    """

    best: float
    best_id: int

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._logits = self._plain = np.empty(0, np.float32)
        self._room = np.empty(allowed, np.float32)
        self._changed = np.empty(0, np.intp)
        self._exact = np.full(allowed, np.nan)  # of changed tokens
        blocks = -(-allowed // _COLUMNS)
        self._weights = np.zeros(blocks * _COLUMNS, np.float32)
        self._ones = np.ones(_COLUMNS, np.float32)

    def take(self, logits: NDArray[np.float32], changed: Ids, change: Callable[[Values], None] | None) -> None:
        """Score ``logits`` [allowed]; ``change`` is given the scores of ``changed`` tokens to work on, by id.

        Raises RunError where a score is NaN or +inf, or all are -inf.
        """
        self._exact[self._changed] = np.nan
        self._logits = self._plain = logits
        self._changed = changed
        changed_best = -np.inf
        if change is not None:
            self._exact[changed] = logits[changed]
            change(self._exact)
            self._plain = self._room
            np.copyto(self._plain, logits)
            self._plain[changed] = -np.inf
            changed_best = float(self._exact[changed].max(initial=-np.inf))
        first = int(self._plain.argmax())
        largest = float(self._plain[first])
        self.best = float(np.maximum(largest, changed_best))
        if not np.isfinite(self.best):
            refuse_unless_finite(self.best, self.all())
        ties = changed[self._exact[changed] == self.best]
        self.best_id = min(first if largest == self.best else self._allowed, int(ties.min(initial=self._allowed)))
        self._largest = largest

    def of(self, ids: Ids) -> Values:
        """Scores of some tokens."""
        found = self._logits[ids].astype(np.float64)
        if len(self._changed):
            exact = self._exact[ids]
            np.copyto(found, exact, where=~np.isnan(exact))
        return found

    def all(self) -> Values:
        """Every score."""
        found = self._logits.astype(np.float64)
        found[self._changed] = self._exact[self._changed]
        return found

    def not_below(self, bound: float) -> Ids:
        """Tokens whose score is ``bound`` or more, and maybe some that are hardly less; ascending."""
        low = np.nextafter(np.float32(bound), np.float32(-np.inf))
        return self._with_changed(np.flatnonzero(self._plain >= low))

    def among_largest(self, k: int) -> Ids:
        """Tokens among which are the ``k`` largest, equals of the last one with them; ascending."""
        columns = self._allowed // _ROWS
        if k > columns // 4:
            return np.arange(self._allowed)
        whole = columns * _ROWS
        # k of the maxima are no less than the k-th of them: so is the k-th largest of all
        maxima = self._plain[:whole].reshape(_ROWS, columns).max(axis=0)
        return self._with_changed(np.flatnonzero(self._plain >= np.partition(maxima, -k)[-k]))

    def head(self, temperature: float, p: float) -> tuple[Ids, Values, float, float] | None:
        """Tokens that weigh most, the share ``p`` of all or more, where the likeliest one weighs 1.

        Returns (ids ascending, their weights, the least and the most that all tokens may weigh together); None where
        they are too many.
        """
        if not self._weigh(temperature):
            return None
        weights = self._weights[: self._allowed]
        total = float(self._sums().sum(dtype=np.float64))
        for bound in _HEADS:
            ids = np.flatnonzero(weights >= bound)
            if len(ids) > _MOST_HEADS:
                return None
            if float(weights[ids].sum(dtype=np.float64)) >= p * total * (1 + 4 * _ERROR):
                weights[ids] = 0
                rest = float(self._sums().sum(dtype=np.float64))
                exact = np.exp((self.of(ids) - self.best) / temperature)
                held, error = float(exact.sum()), rest * 2 * _ERROR + _ERROR * _ERROR
                return ids, exact / self._scale, held / self._scale + rest - error, held / self._scale + rest + error
        return None

    def draw(self, temperature: float, uniform: float) -> int | None:
        """The token that ``uniform`` in [0, 1) falls on; None where that is nearer to another than f32 can tell."""
        if not self._weigh(temperature):
            return None
        ends = self._sums().cumsum(dtype=np.float64)
        total = float(ends[-1])
        target = uniform * total
        block = min(int(ends.searchsorted(target, side="right")), len(ends) - 1)
        before = float(ends[block - 1]) if block else 0.0
        inner = self._weights[block * _COLUMNS : (block + 1) * _COLUMNS].cumsum(dtype=np.float64) + before
        at = int(inner.searchsorted(target, side="right"))
        if at == _COLUMNS:
            return None
        margin = 2 * _ERROR * min(target, total - target) + _ERROR * _ERROR * total
        margin += 2 * _ERROR * (float(inner[-1]) - before)  # within a block sums are not the block's to the last bit
        low = float(inner[at - 1]) if at else before
        return block * _COLUMNS + at if low + margin <= target < float(inner[at]) - margin else None

    def _weigh(self, temperature: float) -> bool:
        """Weigh every token in f32, relative to the largest unchanged one. False where f32 is not the place for it."""
        if temperature < _COLDEST or not (self.best - self._largest) / temperature < _LOG_MOST:
            return False
        weights = self._weights[: self._allowed]
        with np.errstate(over="ignore"):  # to -inf: no weight
            np.subtract(self._plain, np.float32(self._largest), out=weights)
            weights /= np.float32(temperature)
            np.exp(weights, out=weights)
        changed = self._changed
        self._scale = float(np.exp((self._largest - self.best) / temperature))
        weights[changed] = np.exp((self._exact[changed] - self._largest) / temperature)
        return True

    def _sums(self) -> NDArray[np.float32]:
        return self._weights.reshape(-1, _COLUMNS) @ self._ones

    def _with_changed(self, ids: Ids) -> Ids:
        return np.union1d(ids, self._changed) if len(self._changed) else ids
