"""Which calls take a prompt: the cheapest that cover it."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from graphllm.runtime.engine import CALL_ROWS, Engine, cover
from graphllm.runtime.null_device import NullDevice
from tests.lowered_models import Lowered, lowered


def brute_force(n: int, sizes: tuple[int, ...]) -> int:
    """The least cost of any multiset of sizes that holds n tokens."""
    counts = product(*(range(-(-n // s) + 1) for s in sizes))
    return min(
        sum(c * (CALL_ROWS + s) for c, s in zip(count, sizes, strict=True))
        for count in counts
        if sum(c * s for c, s in zip(count, sizes, strict=True)) >= n
    )


@pytest.mark.parametrize("sizes", [(), (8,), (8, 10), (3, 7), (2, 5, 9), (4, 16), (7, 11, 13)])
def test_cover_is_the_cheapest(sizes: tuple[int, ...]) -> None:
    for n in range(1, 31 if len(sizes) < 3 else 20):
        chosen = cover(n, sizes)
        assert list(chosen) == sorted(chosen, reverse=True)
        assert set(chosen) <= {1, *sizes}
        assert sum(chosen) >= n > sum(chosen[:-1])
        assert sum(CALL_ROWS + s for s in chosen) == brute_force(n, (1, *sizes)), (n, chosen)


def test_cover_of_long_prompts() -> None:
    """Whole chunks taken off first cost nothing: as cheap as the whole table says."""
    for sizes in ((8, 32, 128, 512), (8, 32, 100), (6, 10, 15)):
        best = [0]
        for n in range(1, 3000):
            best.append(min(best[max(0, n - s)] + CALL_ROWS + s for s in (1, *sizes)))
        for n in (511, 512, 513, 600, 1023, 1025, 1999, 2047, 2389, 2390, 2391, 2999):
            assert sum(CALL_ROWS + s for s in cover(n, sizes)) == best[n]
    assert len(cover(10_000_000, (8, 32, 128, 512))) == 19532


class Recorder(NullDevice):
    """Notes the size of every call and how many tokens it brought."""

    def __init__(self, model: Lowered) -> None:
        super().__init__(model.module)
        self.calls: list[tuple[int, int]] = []
        self.logits = np.zeros((1, model.config.vocab), np.float32)

    def row(self, token: int, position: int, slot: int) -> Any:
        self.calls.append((1, 1))
        return self.logits[0]

    def block(self, function: str, tokens: Any, start: int, slot: int) -> Any:
        self.calls.append((int(function.rpartition("_")[2]), len(tokens)))
        return self.logits


def test_calls_hold_the_prompt_whatever_the_chunk() -> None:
    model = lowered("plain", slots=1, context=100)  # chunks of 8 and 32: prompts and chunks beyond the largest
    recorder = Recorder(model)
    e = Engine(recorder, model.module)
    for n in (*range(1, 101, 7), 31, 32, 33, 63, 67, 97, 100):
        for chunk in range(102):
            e.truncate(0)
            recorder.calls.clear()
            e.feed([1] * n, chunk=chunk)
            assert e.lengths == [n]
            assert sum(live for _, live in recorder.calls) == n
            assert all(1 <= live <= min(size, chunk or n) for size, live in recorder.calls)
            if 0 < chunk < n and chunk <= 32:  # one call a piece
                assert len(recorder.calls) == -(-n // chunk)
