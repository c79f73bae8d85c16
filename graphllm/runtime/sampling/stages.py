"""The cuts: which tokens stay in the draw. Pure functions from values to positions, in ascending order.

Among equal values the lowest token id wins, always, so that a cut through a tie is the same on every machine. All of
them select, none sorts a vocabulary: top-p sorts only the values that could be in its answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Positions = NDArray[np.intp]

# A margin for sums, relative: three tokens of probability 0.1 reach 0.3, and none of ten equals is below their mean.
_ROUNDING = 1e-12
_SORTED = 4096  # values that are sorted as fast as they are looked at otherwise
_BIN = 44  # bits of an f64 that do not matter for its bin: a bin is 1/256 of the way to the next power of two


def top_k(values: Values, k: int) -> Positions:
    """Positions of the ``k`` largest of ``values`` [n], 1 <= k <= n, exactly k of them."""
    return _from_threshold(values, np.partition(values, -k)[-k], k)


def nucleus(weights: Values, p: float, least: float, most: float) -> Positions | None:
    """What ``top_p`` gives where ``weights`` [n] are the largest of many that sum to something from least to most.

    None where that is not enough to tell.
    """
    falling = np.sort(weights)[::-1]
    reached = falling.cumsum()
    first, last = (int(reached.searchsorted(p * total * (1 - _ROUNDING))) for total in (least, most))
    return _from_threshold(weights, falling[first], first + 1) if first == last < len(falling) else None


def top_p(weights: Values, p: float) -> Positions:
    """Positions of the fewest of ``weights`` [n] that hold the share ``p`` of their sum, at least one.

    Nucleus sampling: Holtzman et al. 2020, arXiv:1904.09751.
    """
    total = float(weights.sum())
    target = p * total * (1 - _ROUNDING)
    # The n values at most that lie below this bound hold less than 1-p of the sum: none is needed to reach p.
    bound = (1 - p) * total / len(weights) * (1 - _ROUNDING)
    close, larger, above = weights[weights >= bound], 0, 0.0
    if len(close) > _SORTED:
        # Leading bits order numbers that are not negative; of the bins they make only the one that reaches p is sorted.
        leading = close.view(np.int64) >> _BIN
        bins = leading.max() - leading
        held = np.bincount(bins, weights=close).cumsum()
        last = min(int(held.searchsorted(target)), len(held) - 1)
        above = float(held[last - 1]) if last else 0.0
        larger, close = int(np.count_nonzero(bins < last)), close[bins == last]
    falling = np.sort(close)[::-1]
    reached = int((falling.cumsum() + above).searchsorted(target))
    count = min(reached + 1, len(falling))
    return _from_threshold(weights, falling[count - 1], larger + count)


def min_p(weights: Values, p: float) -> Positions:
    """Positions of ``weights`` [n] that are at least ``p`` times the largest: Nguyen et al. 2024, arXiv:2407.01082."""
    return np.flatnonzero(weights >= p * weights.max())


def draw(weights: Values, uniform: float) -> int:
    """The position that ``uniform`` in [0, 1) falls on, when each has its share of ``weights`` [n], not all zero."""
    ends = weights.cumsum()
    total = float(ends[-1])
    position = int(ends.searchsorted(uniform * total, side="right"))
    # uniform * sum may round up to the sum itself: the last position of any weight takes it.
    return min(position, int(ends.searchsorted(total)))


def _from_threshold(values: Values, threshold: np.float64, count: int) -> Positions:
    """Positions of the ``count`` largest, where ``threshold`` is the smallest value among those."""
    positions: Positions = np.flatnonzero(values >= threshold)
    surplus = len(positions) - count
    if surplus == 0:
        return positions
    ties = np.flatnonzero(values[positions] == threshold)
    return np.delete(positions, ties[-surplus:])
