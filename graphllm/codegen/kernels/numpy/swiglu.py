"""``silu(gate) * up`` of many rows, a tile of rows at a time: five passes over a cache, not over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy import add, divide, exp, multiply, negative
from numpy.typing import NDArray

Array = NDArray[Any]
TILE_BYTES = 1 << 18


def bind_swiglu(gate: Array, up: Array, room: Array, out: Array) -> Callable[[], None]:
    """``run()``: [T,F] each; ``room`` holds silu(gate) and may be ``out``."""
    step = max(1, TILE_BYTES // (4 * gate.shape[1]))
    tiles = [
        (gate[t : t + step], up[t : t + step], room[t : t + step], out[t : t + step]) for t in range(0, len(gate), step)
    ]

    def run() -> None:
        for g, u, s, y in tiles:
            negative(g, out=s)
            exp(s, out=s)
            add(s, 1.0, out=s)
            divide(g, s, out=s)
            multiply(s, u, out=y)

    return run
