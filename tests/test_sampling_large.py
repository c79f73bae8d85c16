"""A choice among many tokens, by passes that leave out what cannot matter, against the definition to the letter.

The reference sorts everything in f64 and shares nothing with the package but the order of the stages. Random numbers
are put on the very edges of tokens, too: there passes must say that they do not know.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.runtime.device import Weigher
from graphllm.runtime.sampling import Sampler, SamplerConfig, stages
from graphllm.runtime.sampling.scores import Scores
from tests.cpu_models import quick_builds
from tests.test_weigh import weigher

__all__ = ["quick_builds", "weigher"]
VOCAB, ALLOWED = 30_011, 29_900


def reference(
    config: SamplerConfig, logits: NDArray[np.float32], history: list[int]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The tokens that are left, by id, and where each one's share ends."""
    x = logits[:ALLOWED].astype(np.float64)
    for token, bias in config.logit_bias.items():
        x[token] += bias
    for token, count in Counter(history).items():
        if token < ALLOWED:
            x[token] = x[token] * config.repetition_penalty if x[token] < 0 else x[token] / config.repetition_penalty
            x[token] = x[token] - count * config.frequency_penalty - config.presence_penalty
    weights = np.exp((x - x.max()) / config.temperature)
    ids = np.sort(np.argsort(-x, kind="stable")[: config.top_k or None])
    if config.top_p < 1:
        falling = ids[np.argsort(-weights[ids], kind="stable")]  # scores that differ may weigh the same
        sums = weights[falling].cumsum()
        ids = np.sort(falling[: int(np.flatnonzero(sums >= config.top_p * sums[-1] * (1 - 1e-12))[0]) + 1])
    ids = ids[weights[ids] >= config.min_p * weights[ids].max()]
    return ids, weights[ids].cumsum()


def sharp(rng: np.random.Generator) -> NDArray[np.float32]:
    """As a trained model has them: a few likely tokens, and a long tail."""
    logits = (rng.standard_normal(VOCAB) * 2).astype(np.float32)
    logits[rng.integers(VOCAB, size=40)] += np.linspace(18, 4, 40, dtype=np.float32)
    return logits


def flat(rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal(VOCAB).astype(np.float32)


def mixed(rng: np.random.Generator) -> NDArray[np.float32]:
    """One likely token, and many others."""
    logits = flat(rng)
    logits[rng.integers(VOCAB)] = np.float32(rng.uniform(6, 9))
    return logits


def even(rng: np.random.Generator) -> NDArray[np.float32]:
    """Hardly one token is likelier than another."""
    return (rng.standard_normal(VOCAB) * 1e-3).astype(np.float32)


def tied(rng: np.random.Generator) -> NDArray[np.float32]:
    """Many equals, and a tenth that is impossible."""
    logits = (rng.standard_normal(VOCAB) * 2).round().astype(np.float32)
    logits[rng.random(VOCAB) < 0.1] = -np.inf
    return logits


SETTINGS: dict[str, dict[str, Any]] = {
    "temperature": {},
    "temperature, penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.1},
    "a bias beyond all": {"logit_bias": {5: 900.0, 7: 899.0}},
    "top-k": {"top_k": 40},
    "top-k, top-p, a penalty": {"top_k": 400, "top_p": 0.8, "frequency_penalty": 0.5},
    "top-p": {"top_p": 0.9},
    "small top-p": {"top_p": 0.2, "logit_bias": {3: 1.0}},
    "top-p, penalties": {"top_p": 0.95, "repetition_penalty": 1.1, "frequency_penalty": 0.2},
    "all but the tail": {"top_p": 0.999},
    "none but the first": {"top_p": 0.0},
    "top-p, min-p": {"top_p": 0.97, "min_p": 0.01},
    "top-p, a lower min-p": {"top_p": 0.5, "min_p": 1e-4},
    "min-p": {"min_p": 0.05},
    "min-p, a bias": {"min_p": 0.02, "logit_bias": {3: 9.0, 4: -1e9}},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("kind", [sharp, flat, mixed, even, tied])
def test_the_token_of_the_definition(weigher: Weigher, kind: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng()
    for temperature in (float(rng.uniform(0.4, 1.6)), 1.0):
        logits, history = kind(rng), rng.integers(0, VOCAB, 60).tolist()
        config = SamplerConfig(temperature=temperature, seed=1, **options)
        sampler = Sampler(config, VOCAB, ALLOWED, weigher)
        ids, ends = reference(config, logits, history)
        edges = ends[rng.integers(len(ends), size=6)] / ends[-1]
        numbers = [*rng.random(12), 0.0, *edges, *edges * (1 - 1e-9), *np.nextafter(edges, 0), *edges * (1 - 1e-7)]
        for number in numbers:
            if number >= 1:
                continue
            sampler.give_back([float(number)])
            place = int(ends.searchsorted(number * ends[-1], side="right"))
            assert sampler.sample(logits, history) == ids[min(place, int(ends.searchsorted(ends[-1])))], number


@pytest.mark.parametrize("scale", [1e-30, 1e20])
@pytest.mark.parametrize("temperature", [1e-3, 1e6])
@pytest.mark.parametrize(
    "options", [{}, {"top_p": 0.0}, {"top_p": 0.9}, {"top_p": 1e-9, "min_p": 0.02, "logit_bias": {3: 1e4}}]
)
def test_logits_that_are_hardly_there_or_huge(options: dict[str, Any], temperature: float, scale: float) -> None:
    rng = np.random.default_rng()
    logits, history = flat(rng) * np.float32(scale), rng.integers(0, VOCAB, 60).tolist()
    config = SamplerConfig(temperature=temperature, seed=1, **options)
    sampler, (ids, ends) = Sampler(config, VOCAB, ALLOWED), reference(config, logits, history)
    for number in (0.0, *rng.random(3)):
        sampler.give_back([float(number)])
        place = int(ends.searchsorted(number * ends[-1], side="right"))
        assert sampler.sample(logits, history) == ids[min(place, int(ends.searchsorted(ends[-1])))], number


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.3},
        {"top_p": 0.9},
        {"top_p": 0.9999},
        {"top_p": 0.0},
        {"top_p": 0.9, "logit_bias": {3: 2.0}},
        {"top_p": 0.9, "logit_bias": {3: 30.0}, "frequency_penalty": 0.2},
        {"top_p": 0.9, "min_p": 0.02},
        {"top_p": 0.9, "min_p": 0.0002},
    ],
)
def test_a_vocabulary_is_not_weighed_in_numpy(
    weigher: Weigher, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where a random number is too near to an edge, and that is seldom."""
    rng, asked = np.random.default_rng(), 0

    def all_of(scores: Scores) -> Any:
        nonlocal asked
        asked += 1
        return whole(scores)

    whole = Scores.all
    monkeypatch.setattr(Scores, "all", all_of)
    for kind in (sharp, flat, mixed):
        sampler = Sampler(SamplerConfig(temperature=0.8, seed=3, **options), VOCAB, ALLOWED, weigher)
        logits = kind(rng)
        for _ in range(40):
            sampler.sample(logits, [1, 2, 3])
    assert asked <= 1


def test_many_values_are_cut_as_few() -> None:
    rng = np.random.default_rng()
    for weights in (rng.random(9000), rng.integers(1, 5, 9000) / 4, rng.random(9000) ** 4, np.ones(9000)):
        order = np.argsort(-weights, kind="stable")
        sums = weights[order].cumsum()
        for p in (0.0, 0.3, float(rng.random()), 0.999):
            count = int(sums.searchsorted(p * sums[-1] * (1 - stages.ROUNDING))) + 1
            assert stages.top_p(weights, p).tolist() == sorted(order[:count].tolist())
