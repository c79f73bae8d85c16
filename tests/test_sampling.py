"""Every stage of the sampler against a plain slow reference, on random logits with ties and impossible tokens.

The reference works on Python floats and sorted lists of (id, value) and shares nothing with the package.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graphllm.runtime.sampling import Sampler, SamplerConfig, stages
from graphllm.runtime.sampling.scores import Scores

INF = float("inf")
LARGE = 152064


def random_logits(rng: np.random.Generator, vocab: int) -> NDArray[np.float32]:
    """Ties by rounding, and now and then a tenth of the tokens impossible; at least one is possible."""
    logits = (rng.standard_normal(vocab) * rng.choice([0.5, 3.0, 12.0])).round(int(rng.integers(0, 4)))
    if rng.random() < 0.4:
        logits[rng.random(vocab) < 0.1] = -INF
        logits[rng.integers(vocab)] = 1.0
    return logits.astype(np.float32)


def reference(config: SamplerConfig, logits: NDArray[Any], allowed: int, history: list[int]) -> dict[int, float]:
    """Probabilities by id, as the documentation defines them."""
    x = {i: float(logits[i]) for i in range(allowed)}
    for i, bias in config.logit_bias.items():
        x[i] += bias
    for i, count in Counter(history[-config.penalty_window :]).items():  # [-0:] is everything
        if i >= allowed:
            continue
        r = config.repetition_penalty
        x[i] = x[i] * r if x[i] < 0 else x[i] / r
        x[i] = x[i] - count * config.frequency_penalty - config.presence_penalty
    best = min(x, key=lambda i: (-x[i], i))
    if config.temperature == 0:
        return {best: 1.0}
    kept = falling(x)[: config.top_k or None]  # by scores: what differs by 1e-75 may weigh the same
    p = normalised({i: math.exp((x[i] - x[best]) / config.temperature) for i in kept})
    if config.top_p < 1:
        reached, nucleus = 0.0, []
        for i in falling(p):
            nucleus.append(i)
            reached += p[i]
            if reached >= config.top_p - 1e-12:
                break
        p = {i: p[i] for i in nucleus}
    least = config.min_p * max(p.values())
    return normalised({i: value for i, value in p.items() if value >= least})


def falling(values: dict[int, float]) -> list[int]:
    """Ids from the largest value to the smallest, the lowest id first among equals."""
    return sorted(values, key=lambda i: (-values[i], i))


def normalised(weights: dict[int, float]) -> dict[int, float]:
    total = math.fsum(weights.values())
    return {i: weight / total for i, weight in weights.items()}


def distribution(sampler: Sampler, logits: NDArray[np.float32], history: list[int]) -> dict[int, float]:
    """What the sampler is about to draw from."""
    ids, weights = sampler.candidates(logits, history)
    assert all(a < b for a, b in pairwise(ids.tolist()))
    return dict(zip(ids.tolist(), (weights / weights.sum()).tolist(), strict=True))


def assert_same(got: dict[int, float], expected: dict[int, float]) -> None:
    assert {i for i, p in got.items() if p > 1e-290} == {i for i, p in expected.items() if p > 1e-290}
    for i, p in got.items():
        assert p == pytest.approx(expected.get(i, 0.0), rel=1e-9, abs=1e-290)


STAGES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "hot": {"temperature": 30.0},
    "cold": {"temperature": 1e-3},
    "top-k 1": {"temperature": 1.0, "top_k": 1},
    "top-k": {"temperature": 1.0, "top_k": 5},
    "top-k past V": {"temperature": 1.0, "top_k": 10**30},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "top-p small": {"temperature": 1.0, "top_p": 0.05},
    "top-p 0": {"temperature": 1.0, "top_p": 0.0},
    "min-p": {"temperature": 1.0, "min_p": 0.1},
    "min-p 1": {"temperature": 1.0, "min_p": 1.0},
    "repetition": {"temperature": 1.0, "repetition_penalty": 1.3},
    "repetition below 1": {"temperature": 1.0, "repetition_penalty": 0.7},
    "presence": {"temperature": 1.0, "presence_penalty": 1.5},
    "frequency": {"temperature": 1.0, "frequency_penalty": -0.4},
    "window": {"temperature": 1.0, "frequency_penalty": 0.8, "penalty_window": 7},
    "bias": {"temperature": 1.0, "logit_bias": {0: 2.5}},
    "greedy": {},
    "greedy, penalised": {"repetition_penalty": 1.5, "frequency_penalty": 0.5},
    "greedy, biased": {"logit_bias": {0: -1e9}},
    "all": {
        "temperature": 0.9,
        "top_k": 20,
        "top_p": 0.8,
        "min_p": 0.05,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "logit_bias": {0: 1.0},
        "penalty_window": 9,
    },
}


@pytest.mark.parametrize("settings_", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("vocab", [1, 2, 37, 512])
def test_a_stage_is_what_its_definition_says(settings_: dict[str, Any], vocab: int) -> None:
    rng = np.random.default_rng()
    config = SamplerConfig(**settings_, seed=1)
    for _ in range(12):
        allowed = int(rng.integers(max(1, vocab - 3), vocab + 1))
        sampler = Sampler(config, vocab, allowed)
        history: list[int] = []
        for _ in range(4):
            logits = random_logits(rng, vocab)
            logits[0] = 0.5  # something allowed is possible
            history += rng.integers(0, vocab, size=int(rng.integers(0, 12))).tolist()
            expected = reference(config, logits, allowed, history)
            assert_same(distribution(sampler, logits, history), expected)
            assert expected[sampler.sample(logits, history)] > 0


@given(
    st.builds(
        SamplerConfig,
        temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        top_k=st.integers(0, 40),
        top_p=st.integers(0, 100).map(lambda percent: percent / 100),
        min_p=st.integers(0, 100).map(lambda percent: percent / 100),
        repetition_penalty=st.floats(0.5, 2),
        presence_penalty=st.floats(-2, 2),
        frequency_penalty=st.floats(-2, 2),
        logit_bias=st.dictionaries(st.integers(0, 29), st.floats(-100, 100), max_size=4),
        penalty_window=st.integers(0, 20),
    ),
    st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_any_composition_has_the_documented_order(config: SamplerConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = random_logits(rng, 33)
    history = rng.integers(0, 33, size=25).tolist()
    expected = reference(config, logits, 30, history)
    sampler = Sampler(config, 33, 30)
    assert_same(distribution(sampler, logits, history), expected)
    assert expected[sampler.sample(logits, history)] > 0


def test_a_vocabulary_of_152064() -> None:
    rng = np.random.default_rng()
    for spread, options in (
        (8.0, {"top_p": 0.95}),
        (0.0, {"top_p": 0.5}),
        (1.0, {"top_p": 0.8}),
        (1.0, {"top_k": 50, "min_p": 0.2}),
    ):
        logits = (rng.standard_normal(LARGE) * spread).astype(np.float32)
        config = SamplerConfig(temperature=1.0, seed=3, **options)
        sampler = Sampler(config, LARGE, LARGE - 300)
        assert_same(distribution(sampler, logits, []), reference(config, logits, LARGE - 300, []))
        greedy = Sampler(SamplerConfig(), LARGE, LARGE - 300).sample(logits, [])
        assert greedy == max(range(LARGE - 300), key=lambda i: (logits[i], -i))


def sharp_logits(rng: np.random.Generator) -> NDArray[np.float32]:
    """As a trained model has them: a few likely tokens, and a long tail."""
    logits = (rng.standard_normal(LARGE) * 2).astype(np.float32)
    logits[rng.integers(LARGE, size=40)] += np.linspace(18, 4, 40, dtype=np.float32)
    return logits


@pytest.mark.parametrize("options", [{}, {"logit_bias": {7: 3.0, 9: -2.5, 11: 40.0}}, {"repetition_penalty": 1.3}])
def test_what_f32_decides_of_a_large_vocabulary_is_what_f64_would(options: dict[str, Any]) -> None:
    """A draw in f32 gives the token that exact weights give, by id, or says that it cannot tell."""
    rng = np.random.default_rng()
    told = 0
    for _ in range(2):
        logits, temperature, history = sharp_logits(rng), float(rng.uniform(0.5, 1.5)), rng.integers(0, LARGE, 50)
        sampler = Sampler(SamplerConfig(temperature=temperature, seed=1, **options), LARGE, LARGE - 300)
        ids, weights = sampler.candidates(logits, history.tolist())
        ends = weights.cumsum()
        sampler._scored(logits, history.tolist())
        for uniform in rng.random(60):
            token = sampler._draws.among_all(temperature, uniform)
            exact = ids[ends.searchsorted(uniform * ends[-1], side="right")]
            assert token in (None, exact)
            told += token is not None
    assert told > 2 * 60 * 0.7


@pytest.mark.parametrize(
    "options",
    [
        {"top_p": 0.9},
        {"top_p": 0.5, "logit_bias": {3: 30.0}},
        {"top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
        {"top_k": 40},
        {"top_k": 300, "logit_bias": {3: 30.0, 5: -1e9}},
        {"min_p": 0.05},
    ],
)
def test_cuts_of_a_large_vocabulary(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a pass over it in f64."""
    rng = np.random.default_rng()
    logits, history = sharp_logits(rng), rng.integers(0, LARGE, 40).tolist()
    config = SamplerConfig(temperature=0.8, seed=3, **options)
    expected = reference(config, logits, LARGE - 300, history)
    monkeypatch.setattr(Scores, "all", None)
    assert_same(distribution(Sampler(config, LARGE, LARGE - 300), logits, history), expected)


def test_a_bound_of_top_p_that_nothing_decides() -> None:
    assert stages.fewest(np.array([0.5, 0.25]), 0.49, 0.51) is None
    assert stages.fewest(np.array([0.5, 0.25]), 0.9, 0.9) is None  # more than are there
    for least, most, kept in ((0.45, 0.475, [1]), (0, 0, [1]), (0.6, 0.75, [0, 1])):
        positions = stages.fewest(np.array([0.25, 0.5]), least, most)
        assert positions is not None
        assert positions.tolist() == kept


def test_rounding_decides_no_cut() -> None:
    ten = np.zeros(10, np.float32)
    for tenths in range(1, 10):
        sampler = Sampler(SamplerConfig(temperature=1.0, top_p=tenths / 10), 10, 10)
        assert list(distribution(sampler, ten, [])) == list(range(tenths))
    for vocab in range(1, 200):  # no mean is so rounded that every one of its equals lies below it
        sampler = Sampler(SamplerConfig(temperature=3.0, top_p=0.0), vocab, vocab)
        assert list(distribution(sampler, np.full(vocab, 0.1, np.float32), [])) == [0]


def test_draws_are_distributed_as_the_probabilities() -> None:
    logits = np.array([0.0, 1.0, -INF, 2.0, 0.5, -1.0, 2.0, 9.0], np.float32)
    config = SamplerConfig(temperature=1.3, seed=20240607)
    sampler = Sampler(config, 8, 7)  # 9.0 is past the tokenizer
    draws = 20000
    counts = Counter(sampler.sample(logits, []) for _ in range(draws))
    expected = {i: p * draws for i, p in reference(config, logits, 7, []).items() if p > 0}
    assert counts.keys() == expected.keys()
    chi_square = sum((counts[i] - e) ** 2 / e for i, e in expected.items())
    assert chi_square < 20.5  # 5 degrees of freedom: one in a thousand


def test_a_disallowed_token_is_never_drawn() -> None:
    rng = np.random.default_rng()
    for config in (SamplerConfig(), SamplerConfig(temperature=50.0), SamplerConfig(temperature=1.0, top_k=3)):
        sampler = Sampler(config, 16, 9)
        for _ in range(200):
            logits = rng.standard_normal(16).astype(np.float32)
            logits[9:] = [100, INF, np.nan, 5, 5, 5, 5]
            history = rng.integers(0, 16, size=3).tolist()
            assert 0 <= sampler.sample(logits, history) < 9


def test_an_impossible_token_is_never_drawn() -> None:
    logits = np.full(64, -INF, np.float32)
    logits[[5, 40]] = [1e30, 1e30]
    sampler = Sampler(SamplerConfig(temperature=1e6, top_p=0.999), 64, 64)
    assert {sampler.sample(logits, []) for _ in range(100)} == {5, 40}


@pytest.mark.parametrize("options", STAGES.values(), ids=STAGES)
def test_logits_are_left_as_they_are(options: dict[str, Any]) -> None:
    logits = random_logits(np.random.default_rng(), 64)
    before = logits.copy()
    logits.flags.writeable = False
    Sampler(SamplerConfig(**options), 64, 64).sample(logits, [1, 2, 2])
    np.testing.assert_array_equal(logits, before)
