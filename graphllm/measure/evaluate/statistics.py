"""Means with how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SURE: Final = 1.959964  # standard errors to each side of 95 %


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean and its standard error, each sample counted as independent of the others."""

    value: float
    error: float

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.value - SURE * self.error

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.value + SURE * self.error


def mean_of(samples: NDArray[Any]) -> Mean:
    """The mean of n >= 1 samples; of a single one the error is not known and given as 0."""
    error = float(samples.std(ddof=1)) / math.sqrt(len(samples)) if len(samples) > 1 else 0.0
    return Mean(float(samples.mean(dtype=np.float64)), error)


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927), which stays within 0 and 1 where few were tried."""
    p, z = hits / n, SURE
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)
