"""Logits that are broken and settings that make no sense are named; log probabilities against Python floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from graphllm.errors import RunError
from graphllm.runtime.sampling import Sampler, SamplerConfig, log_probs
from tests.test_sampling import INF, random_logits


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"repetition_penalty": 1.1}, {"logit_bias": {1: 1.0}}])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, np.nan, INF, np.nan], "NaN in 2 of 4 logits, first at token id 1"),
        ([1.0, -INF, 0.0, INF], r"\+inf in 1 of 4 logits, first at token id 3"),
        ([-INF] * 4, "all 4 are -inf"),
    ],
)
def test_broken_logits_are_named(options: dict[str, Any], values: list[float], message: str) -> None:
    logits = np.array([*values, 3.0], np.float32)
    with pytest.raises(RunError, match=f"^logits: {message}; expected "):
        Sampler(SamplerConfig(**options), 5, 4).sample(logits, [0])


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -0.1, "a number from 0 to 1e+06"),
        ("temperature", float("nan"), "a number from 0 to 1e+06"),
        ("temperature", INF, "a number from 0 to 1e+06"),
        ("temperature", "hot", "a number from 0 to 1e+06"),
        ("temperature", True, "a number from 0 to 1e+06"),
        ("temperature", 10**400, "a number from 0 to 1e+06"),
        ("top_k", -1, "a whole number, 0 or more"),
        ("top_k", 2.5, "a whole number, 0 or more"),
        ("top_p", 1.01, "a number from 0 to 1"),
        ("top_p", -0.01, "a number from 0 to 1"),
        ("min_p", 2, "a number from 0 to 1"),
        ("repetition_penalty", 0, "a number from 0.01 to 100"),
        ("presence_penalty", INF, "a number from -1000 to 1000"),
        ("frequency_penalty", None, "a number from -1000 to 1000"),
        ("seed", -1, "a whole number, 0 or more"),
        ("seed", 1.0, "a whole number, 0 or more"),
        ("penalty_window", -3, "a whole number, 0 or more"),
    ],
)
def test_a_bad_setting_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(RunError) as caught:
        SamplerConfig(**{name: value})
    assert str(caught.value) == f"sampler: {name} = {value!r}; expected {expected}"


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ({3: float("nan")}, r"logit_bias\[3\] = nan; expected a number from -1e\+09 to 1e\+09"),
        ({3: -INF}, r"logit_bias\[3\] = -inf; expected"),
        ({-1: 1.0}, "logit_bias: token id = -1; expected a whole number, 0 or more"),
        ({"3": 1.0}, "logit_bias: token id = '3'; expected a whole number"),
        ({8: 1.0}, r"logit_bias\[8\]: no such token; expected an id from 0 to 7"),
    ],
)
def test_a_bad_bias_is_refused(bias: Any, message: str) -> None:
    with pytest.raises(RunError, match=f"^sampler: {message}"):
        Sampler(SamplerConfig(logit_bias=bias), 10, 8)


@pytest.mark.parametrize("allowed", [0, 11, -1])
def test_a_tokenizer_larger_than_the_model_is_refused(allowed: int) -> None:
    with pytest.raises(RunError, match="expected 1 to 10"):
        Sampler(SamplerConfig(), 10, allowed)


@pytest.mark.parametrize("token", [-1, 10])
def test_an_id_outside_the_vocabulary_is_refused(token: int) -> None:
    sampler = Sampler(SamplerConfig(presence_penalty=1.0), 10, 8)
    logits = np.zeros(10, np.float32)
    with pytest.raises(RunError, match=rf"^history\[2\]: token id {token}; expected 0 to 9"):
        sampler.sample(logits, [1, 9, token])
    assert sampler.sample(logits, [0, 1]) == 2  # and nothing of it is remembered


def test_a_setting_cannot_change_after_its_check() -> None:
    bias = {1: 2.0}
    config = SamplerConfig(logit_bias=bias)
    bias[1] = float("nan")
    assert config.logit_bias == {1: 2.0}
    assert hash(config) == hash(SamplerConfig())


def test_log_probs_against_python_floats() -> None:
    rng = np.random.default_rng()
    rows = np.stack([random_logits(rng, 40) for _ in range(6)])
    got = log_probs(rows)
    assert got.dtype == np.float64
    for row, out in zip(rows.tolist(), got.tolist(), strict=True):
        log_sum = math.log(math.fsum(math.exp(x - max(row)) for x in row)) + max(row)
        assert out == pytest.approx([x - log_sum for x in row], rel=1e-12, abs=1e-12)
    np.testing.assert_array_equal(log_probs(rows[2]), got[2])
    assert log_probs(np.array([-5.0], np.float32)).tolist() == [0.0]


def test_log_probs_of_broken_logits() -> None:
    rows = np.zeros((3, 4), np.float32)
    rows[1, 2] = np.nan
    with pytest.raises(RunError, match="NaN in 1 of 4 logits, first at token id 2"):
        log_probs(rows)
    with pytest.raises(RunError, match="all 4 are -inf"):
        log_probs(np.full(4, -INF, np.float32))
