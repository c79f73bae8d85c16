"""What a sampler remembers: its seed, how far its random numbers are, how often a token was said."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphllm.runtime.sampling import Sampler, SamplerConfig
from graphllm.runtime.sampling.history import TokenCounts


def generate(sampler: Sampler, steps: int = 60) -> list[int]:
    """A sequence over logits that depend on the last token alone."""
    history = [0]
    for _ in range(steps):
        logits = np.random.default_rng(history[-1]).standard_normal(50).astype(np.float32)
        history.append(sampler.sample(logits, history))
    return history


def test_a_seed_gives_the_same_tokens() -> None:
    config = SamplerConfig(temperature=1.0, top_p=0.95, frequency_penalty=0.3, seed=7)
    assert generate(Sampler(config, 50, 50)) == generate(Sampler(config, 50, 50))
    assert generate(Sampler(config, 50, 50)) != generate(Sampler(SamplerConfig(temperature=1.0, seed=8), 50, 50))


def test_a_seed_that_was_drawn_can_be_used_again() -> None:
    first, second = (Sampler(SamplerConfig(temperature=1.0), 50, 50) for _ in range(2))
    assert first.seed != second.seed
    tokens = generate(first)
    assert generate(Sampler(SamplerConfig(temperature=1.0, seed=first.seed), 50, 50)) == tokens
    assert 0 <= first.seed < 2**53


@pytest.mark.parametrize("top_k", [1, 2, 0])
def test_each_token_takes_one_random_number(top_k: int) -> None:
    flat = np.zeros(1000, np.float32)
    sampler = Sampler(SamplerConfig(temperature=1.0, top_k=top_k, seed=5), 1000, 1000)
    numbers = np.random.Generator(np.random.PCG64(5)).random(20)
    assert [sampler.sample(flat, []) for _ in range(20)] == [int(u * (top_k or 1000)) for u in numbers]


@pytest.mark.parametrize("window", [0, 1, 5])
def test_counts_follow_a_history(window: int) -> None:
    rng = np.random.default_rng()
    counts = TokenCounts(400, 300, window)
    history: list[int] = []
    for step in range(120):
        if step % 40 == 39:  # rewound, as a chat is when a turn is taken back
            history = history[: len(history) // 2]
        elif step % 40 == 20:  # another sequence, no shorter
            last = history[-1]
            history = [int(t) for t in rng.integers(0, 400, size=len(history) + 3)]
            history[-4] = (last + 1) % 400  # it differs where the count ended, which is where a count looks
        history += rng.integers(0, 400, size=int(rng.integers(0, 9))).tolist()
        counts.follow(history)
        expected = Counter(t for t in history[-window:] if t < 300)
        assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == expected


class Watched(list[int]):
    """A history that counts how often it is looked into."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


def test_a_step_does_not_read_the_whole_history() -> None:
    history = Watched(range(1000))
    counts = TokenCounts(2000, 2000, 100)
    counts.follow(history)
    history.looks = 0
    history.append(7)
    counts.follow(history)
    assert history.looks <= 3
