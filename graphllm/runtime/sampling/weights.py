"""Weights of tokens in NumPy, for devices without code of their own for them: `runtime.device.Weigh`."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.device import WEIGHED, Logits

_TOGETHER: Final = 512 * WEIGHED  # tokens whose weights stay in a core's cache from one operation to the next


class NumpyWeights:
    """Weighs rows of any length, some tokens at a time, in memory of its own."""

    def __init__(self) -> None:
        self._room = {exactly: np.empty(_TOGETHER, np.float64 if exactly else np.float32) for exactly in (False, True)}
        self._ones = {exactly: np.ones(WEIGHED, room.dtype) for exactly, room in self._room.items()}

    def __call__(
        self,
        logits: Logits,
        temperature: float,
        largest: float,
        below: float,
        sums: NDArray[np.float64],
        *,
        exactly: bool,
        weights: NDArray[np.float64] | None = None,
        above: NDArray[np.int64] | None = None,
    ) -> int:
        room, ones = self._room[exactly], self._ones[exactly]
        kind, found = room.dtype.type, 0
        for first in range(0, len(logits), _TOGETHER):
            x = logits[first : first + _TOGETHER]
            w = room[: len(x)]
            with np.errstate(over="ignore"):  # to -inf: no weight
                np.subtract(x, kind(largest), out=w)
                np.divide(w, kind(temperature), out=w)
            np.exp(w, out=w)
            if below < np.inf:
                ids = np.flatnonzero(x >= np.float32(below))
                w[ids] = 0
                found += len(ids)
                if above is not None:
                    if found > len(above):
                        return found
                    above[found - len(ids) : found] = ids + first
            if weights is not None:
                weights[first : first + len(x)] = w
            blocks = -(-len(x) // WEIGHED)
            room[len(x) : blocks * WEIGHED] = 0
            block = first // WEIGHED
            sums[block : block + blocks] = room[: blocks * WEIGHED].reshape(blocks, WEIGHED) @ ones
        return found
