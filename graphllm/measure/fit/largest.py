"""The largest number that fits, found with few tries: each try may cost a second of lowering."""

from __future__ import annotations

from collections.abc import Callable


def largest_that_fits(total: Callable[[int], int], slope: int, room: int, cap: int) -> int:
    """The largest n from 1 to ``cap`` with ``total(n) <= room``; 0 where there is none.

    Args:
        total: grows by at least ``slope`` with each n; asked a handful of times.
    """
    spares: dict[int, int] = {}
    low, high = 0, cap + 1  # low fits, high does not

    def spare(n: int) -> int:
        """What n leaves, and what follows from it for others."""
        nonlocal low, high
        left = spares[n] = room - total(n)
        if left >= 0:
            low, high = max(low, n), min(high, n + left // slope + 1)
        else:
            # with the same arena so many fewer would fit, and a smaller n has no larger one
            low, high = max(low, min(n + left // slope, n - 1)), min(high, n)
        return left

    guess, halve = min(cap, room // slope), False
    while high - low > 1 and guess >= 1:
        spare(guess)
        if high - low > 1 and low >= 1 and low not in spares:
            spare(low)
        guess, halve = (low + high) // 2 if halve else _between(low, high, spares), not halve
    while low >= 1 and (spares[low] if low in spares else spare(low)) < 0:
        low -= 1  # not as regular as it should be
    return max(0, low)


def _between(low: int, high: int, spares: dict[int, int]) -> int:
    """Where the straight line through both ends crosses nothing left; the middle where an end is not known."""
    left, lack = spares.get(low), spares.get(high)
    if left is None or lack is None:
        return (low + high) // 2
    return min(high - 1, max(low + 1, low + (high - low) * left // (left - lack)))
