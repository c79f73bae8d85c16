"""Logits as they come from a model, the check they must pass, and the probabilities they stand for."""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import RunError


def refuse_unless_finite(largest: float, logits: NDArray[Any]) -> None:
    """Raise RunError naming what is wrong with ``logits`` [V], unless their largest value is a finite number.

    That one value tells: NumPy's ``max`` and ``argmax`` find a NaN before any number, +inf before any finite number,
    and -inf only where there is nothing else. So a sound row pays nothing for this check.
    """
    if isfinite(largest):
        return
    count = logits.size
    for name, found in (("NaN", np.isnan(logits)), ("+inf", np.isposinf(logits))):
        if found.any():
            what = f"{name} in {int(found.sum())} of {count} logits, first at token id {int(found.argmax())}"
            raise RunError(f"logits: {what}; expected finite numbers; the model's weights or its arithmetic are broken")
    raise RunError(f"logits: all {count} are -inf; expected at least one finite number, there is no token to choose")


def log_probs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithm of the softmax of ``logits`` [..., V] over the last axis, in float64, same shape.

    Raises RunError when a row has a NaN or +inf, or nothing but -inf.
    """
    out = logits.astype(np.float64)
    largest = out.max(axis=-1, keepdims=True)
    if not np.isfinite(largest).all():
        row = int(np.isfinite(largest).argmin())
        refuse_unless_finite(float(largest.flat[row]), out.reshape(-1, out.shape[-1])[row])
    out -= largest
    out -= np.log(np.exp(out).sum(axis=-1, keepdims=True))
    return out
