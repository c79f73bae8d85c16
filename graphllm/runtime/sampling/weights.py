"""Weights of tokens in NumPy, for devices without code of their own for them: `runtime.device.Weigher`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.device import BINS, BINS_PER_NAT, WEIGHED, Logits

_TOGETHER: Final = 512 * WEIGHED  # tokens whose weights stay in a core's cache from one operation to the next


class NumpyWeights:
    """Weighs rows of any length, some tokens at a time, in memory of its own."""

    def __init__(self) -> None:
        self._room = {exactly: np.empty(_TOGETHER, np.float64 if exactly else np.float32) for exactly in (False, True)}
        self._ones = {room.dtype: np.ones(WEIGHED, room.dtype) for room in self._room.values()}

    def weigh(
        self,
        logits: Logits,
        temperature: float,
        largest: float,
        below: NDArray[np.float64],
        *,
        exactly: bool,
        low: float = np.inf,
        high: float = np.inf,
        beyond: NDArray[np.float64] | None = None,
        between: NDArray[np.int64] | None = None,
    ) -> int:
        found = 0
        for first, x, w in self._exponents(logits, temperature, largest, exactly):
            np.exp(w, out=w)
            blocks = slice(first // WEIGHED, -(-(first + len(x)) // WEIGHED))
            if low < np.inf:
                within = x >= np.float32(low)
                if beyond is not None:
                    far = x >= np.float32(high)
                    beyond[blocks] = self._sums(w * far)
                    w *= ~within
                    within ^= far
                ids = np.flatnonzero(within)
                w[ids] = 0
                found += len(ids)
                if between is not None:
                    if found > len(between):
                        return found
                    between[found - len(ids) : found] = ids + first
            below[blocks] = self._sums(w)
        return found

    def histogram(self, logits: Logits, temperature: float, largest: float, counts: NDArray[np.int32]) -> None:
        counts.fill(0)
        for _, _, w in self._exponents(logits, temperature, largest, False):
            np.maximum(w, np.float32(-(BINS - 0.5) / BINS_PER_NAT), out=w)
            np.multiply(w, np.float32(-BINS_PER_NAT), out=w)
            counts += np.bincount(w.astype(np.int32), minlength=BINS)

    def _sums(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Of ``WEIGHED`` successive ones; the last sum may be of fewer."""
        whole = len(weights) // WEIGHED * WEIGHED
        sums = weights[:whole].reshape(-1, WEIGHED) @ self._ones[weights.dtype]
        return sums if whole == len(weights) else np.append(sums, weights[whole:].sum())

    def _exponents(
        self, logits: Logits, temperature: float, largest: float, exactly: bool
    ) -> Iterator[tuple[int, Logits, NDArray[Any]]]:
        """Some successive logits, the first one's number ahead of them, and what e is to be raised to for each."""
        room = self._room[exactly]
        kind = room.dtype.type
        for first in range(0, len(logits), _TOGETHER):
            x = logits[first : first + _TOGETHER]
            w = room[: len(x)]
            with np.errstate(over="ignore"):  # to -inf: no weight
                np.subtract(x, kind(largest), out=w)
                np.divide(w, kind(temperature), out=w)
            yield first, x, w
