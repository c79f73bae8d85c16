"""The cuts: which tokens stay in the draw. Pure functions from values to positions, in ascending order.

Among equal values the lowest token id wins, always, so that a cut through a tie is the same on every machine. All of
them select, none sorts a vocabulary: top-p sorts only the values that could be in its answer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.device import WEIGHED

Values = NDArray[np.float64]
Positions = NDArray[np.intp]

# A margin for sums, relative: three tokens of probability 0.1 reach 0.3, and none of ten equals is below their mean.
ROUNDING = 1e-12
_SMALL = 4096  # values that are sorted as fast as they are looked at otherwise
_TOGETHER = 1 << 14  # weights that stay in a core's cache from one operation to the next
_BIN = 44  # bits of an f64 that do not matter for its bin: a bin is 1/256 of the way to the next power of two


def top_k(values: Values, k: int) -> Positions:
    """Positions of the ``k`` largest of ``values`` [n], 1 <= k <= n, exactly k of them."""
    return _from_threshold(values, np.partition(values, -k)[-k], k)


def fewest(weights: Values, least: float, most: float) -> Positions | None:
    """Positions of the fewest of ``weights`` [n], the largest, that reach a sum which is something from least to most.

    At least one. None where that is not enough to tell, and where more than all would be needed.
    """
    falling = np.sort(weights)[::-1]
    reached = falling.cumsum()
    first, last = int(reached.searchsorted(least)), int(reached.searchsorted(most))
    return _from_threshold(weights, falling[first], first + 1) if first == last < len(falling) else None


def top_p(weights: Values, p: float) -> Positions:
    """Positions of the fewest of ``weights`` [n] that hold the share ``p`` of their sum, at least one.

    Nucleus sampling: Holtzman et al. 2020, arXiv:1904.09751.
    """
    total = float(weights.sum())
    target = p * total * (1 - ROUNDING)
    # The n values at most that lie below this bound hold less than 1-p of the sum: none is needed to reach p.
    bound = (1 - p) * total / len(weights) * (1 - ROUNDING)
    larger, above = 0, 0.0
    if len(weights) > _SMALL:
        # Leading bits order numbers that are not negative; of the bins they make only the one that reaches p is sorted.
        most, least = (int(np.float64(x).view(np.int64)) >> _BIN for x in (weights.max(), bound))
        held = np.zeros(most - least + 2)  # the last one is of all that lie lower
        for first in range(0, len(weights), _TOGETHER):
            part = weights[first : first + _TOGETHER]
            bins = most - (part.view(np.int64) >> _BIN)
            held += np.bincount(np.minimum(bins, len(held) - 1, out=bins), part, len(held))
        ends = held.cumsum()
        last = min(int(ends.searchsorted(target)), len(held) - 1)
        above = float(ends[last - 1]) if last else 0.0
        low = _leading(most - last << _BIN) if last < len(held) - 1 else np.float64(0)
        beyond = weights >= _leading(most - last + 1 << _BIN)
        larger = int(np.count_nonzero(beyond))
        close = weights[(weights >= low) ^ beyond]
    else:
        close = weights[weights >= bound]
    falling = np.sort(close)[::-1]
    count = min(int((falling.cumsum() + above).searchsorted(target)) + 1, len(falling))
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


def draw_by_sums(
    sums: Values, block_at: Callable[[int], Values], uniform: float, error: float, left_out: float
) -> int | None:
    """What ``draw`` gives of weights whose ``sums`` are of ``WEIGHED`` successive ones; None where sums cannot tell.

    Args:
        block_at: the weights of a block, given the position of its first.
        error: of a sum, relative.
        left_out: of the total, relative: weights that sums need not have, and roundings.
    """
    ends = sums.cumsum()
    total = float(ends[-1])
    target = uniform * total
    block = min(int(ends.searchsorted(target, side="right")), len(ends) - 1)
    before = float(ends[block - 1]) if block else 0.0
    inner = block_at(block * WEIGHED).cumsum() + before
    at = int(inner.searchsorted(target, side="right"))
    if at >= len(inner):
        return None
    margin = 2 * error * (min(target, total - target) + float(inner[-1]) - before) + left_out * total
    low = float(inner[at - 1]) if at else before
    return block * WEIGHED + at if low + margin <= target < float(inner[at]) - margin else None


def _leading(bits: int) -> np.float64:
    return np.int64(bits).view(np.float64)


def _from_threshold(values: Values, threshold: np.float64, count: int) -> Positions:
    """Positions of the ``count`` largest, where ``threshold`` is the smallest value among those."""
    positions: Positions = np.flatnonzero(values >= threshold)
    surplus = len(positions) - count
    if surplus == 0:
        return positions
    ties = np.flatnonzero(values[positions] == threshold)
    return np.delete(positions, ties[-surplus:])
