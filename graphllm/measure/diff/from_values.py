"""What may have made two values part, read off the values alone: for a side that has no IR to look into.

What a mistake does to a product's results has a shape of its own: a bias moves every token by one vector, one damaged
row of a matrix moves one element of every token. A norm's eps scales each token, its weight each element.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphllm.measure.diff.compare import Comparison, half_split, interleaved
from graphllm.measure.diff.points import ROTATION, has_heads
from graphllm.measure.diff.trace import Floats, Trace

_PRODUCTS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head")
_NORMS: Final = ("layernorm", "q_norm", "k_norm", "model.norm")
_LEFT_OVER: Final = 0.1  # of a difference that an explanation may leave unexplained
_SHOWN: Final = 4

Doubles = NDArray[np.float64]


def guesses(a: Trace, b: Trace, found: Comparison, head: int) -> list[str]:
    """What the shape of the difference speaks for; empty where it has none that is known."""
    assert found.parted is not None
    name = found.parted.name
    x, y = _nearest(a.values[name], b.values[name], name, head)
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or len(x) < 2:
        return []
    if name == ROTATION:
        return ["the angles of RoPE: theta, or how it is scaled for long contexts"]
    if name.endswith(_PRODUCTS):
        heads = head if has_heads(name) else 0
        return _bias(x, y) or _few_rows(x, y, heads)
    if name.endswith(_NORMS):
        return _scaled(x, y)
    return []


def _nearest(x: Floats, y: Floats, name: str, head: int) -> tuple[Doubles, Doubles]:
    """Both as f64, the second with heads' elements in the order that comes closest."""
    orders = [y]
    if has_heads(name) and x.shape[1] % head == 0:
        orders += [half_split(y, head), interleaved(y, head)]
    nearest = min(orders, key=lambda z: float(np.linalg.norm(x - z)))
    return x.astype(np.float64), nearest.astype(np.float64)


def _bias(x: Doubles, y: Doubles) -> list[str]:
    """Whether every token is off by one vector."""
    gap = y - x
    mean = gap.mean(axis=0)
    if float(np.linalg.norm(gap - mean)) > _LEFT_OVER * float(np.linalg.norm(gap)):
        return []
    count = int((np.abs(mean) > 0.01 * np.abs(mean).max()).sum())
    return [f"every token is off by the same vector, in {count} of {len(mean)} elements: a bias, dropped or another"]


def _few_rows(x: Doubles, y: Doubles, heads: int) -> list[str]:
    """Whether only some elements are off: those rows of the matrix, or of its bias."""
    size: Doubles = np.linalg.norm(y - x, axis=0)
    off = np.flatnonzero(size > 0.01 * size.max())
    rest = np.delete(size, off)
    if len(off) > len(size) // 4 or float(np.linalg.norm(rest)) > _LEFT_OVER * float(np.linalg.norm(size)):
        return []
    where = f"head {_some(np.unique(off // heads))}" if heads else f"element {_some(off)}"
    return [f"tokens are off in {where} and nowhere else: those rows of the weight"]


def _scaled(x: Doubles, y: Doubles) -> list[str]:
    """Whether tokens, or elements, are off by a factor each."""
    by_token, by_element = _factors(x, y, 1), _factors(x, y, 0)
    if by_token is not None:
        return [f"each token is off by a factor, {by_token.min():.4g} to {by_token.max():.4g}: the norm's eps"]
    if by_element is not None:
        off = np.flatnonzero(np.abs(by_element - 1) > 0.01 * np.abs(by_element - 1).max())
        return [f"elements {_some(off)} are off by a factor, the same in every token: the norm's weight"]
    return []


def _factors(x: Doubles, y: Doubles, axis: int) -> Doubles | None:
    """What x must be multiplied by along an axis to be y; None where that does not make it y."""
    squares = np.sum(x * x, axis=axis, keepdims=True)
    factors: Doubles = np.sum(x * y, axis=axis, keepdims=True) / np.where(squares > 0, squares, 1)
    if float(np.linalg.norm(y - factors * x)) > _LEFT_OVER * float(np.linalg.norm(y - x)):
        return None
    return factors.reshape(-1)


def _some(numbers: NDArray[np.int64]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN].tolist())) + (" …" if len(numbers) > _SHOWN else "")
