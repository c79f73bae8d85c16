"""Samplers of other programs: what they draw, against their rules written out plainly, and run.c's own numbers."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import RunError
from graphllm.runtime.sampling import Sampler, SamplerConfig, make_sampler
from graphllm.runtime.sampling.config import VARIANTS
from graphllm.runtime.sampling.variants import Llama2cSampler


def config(variant: str, **settings: Any) -> SamplerConfig:
    return SamplerConfig(**({"temperature": 1.0, "seed": 1} | settings), variant=variant)


def logits_of(seed: int, n: int, *, ties: bool = False) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(n) * 3
    return (np.round(values) if ties else values).astype(np.float32)


# run.c


@pytest.mark.parametrize(
    ("seed", "words"),
    [
        (1, (1206177355, 2882512552, 3117485455)),
        (42, (1456360119, 3359763283, 3393612768)),
        (1234, (3159758022, 1306163061, 1764681998)),
        (133742, (3033531262, 2674377904, 2312864567)),
    ],
)
def test_the_numbers_of_run_c(seed: int, words: tuple[int, ...]) -> None:
    sampler = Llama2cSampler(config("llama2.c", seed=seed), 4, 4)
    assert [sampler.coin() for _ in words] == [(word >> 8) / (1 << 24) for word in words]


def plain_run_c(logits: NDArray[np.float32], temperature: float, topp: float, coin: float) -> int:
    """run.c's ``sample``, a number after the other as C does it."""
    f = np.float32
    scaled = [f(x) / f(temperature) for x in logits]
    most = max(scaled)
    weights = [f(np.exp(x - most)) for x in scaled]
    total = f(0)
    for weight in weights:
        total = f(total + weight)
    p = [f(weight / total) for weight in weights]
    cdf = f(0)
    if not 0 < topp < 1:
        for i, x in enumerate(p):
            cdf = f(cdf + x)
            if f(coin) < cdf:
                return i
        return len(p) - 1
    cutoff = f(f(1) - f(topp)) / f(len(p) - 1)
    kept = sorted(((x, i) for i, x in enumerate(p) if x >= cutoff), key=lambda pair: (-pair[0], pair[1]))
    if not kept:
        return int(logits.argmax())  # run.c reads what is not there
    mass, last = f(0), len(kept) - 1
    for place, (x, _) in enumerate(kept):
        mass = f(mass + x)
        if mass > f(topp):
            last = place
            break
    r = f(f(coin) * mass)
    for x, i in kept[: last + 1]:
        cdf = f(cdf + x)
        if r < cdf:
            return i
    return kept[last][1]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("topp", [0.0, 0.1, 0.5, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_run_c_draws_what_its_loops_draw(temperature: float, topp: float, ties: bool) -> None:
    for n in (1, 2, 7, 67):
        settings = config("llama2.c", temperature=temperature, top_p=topp, seed=n)
        sampler, coins = make_sampler(settings, n, n), Llama2cSampler(settings, n, n)
        for step in range(12):
            logits = logits_of(step, n, ties=ties)
            if n == 1:
                assert sampler.sample(logits, ()) == 0
            else:
                assert sampler.sample(logits, ()) == plain_run_c(logits, temperature, topp, coins.coin())


def test_run_c_is_greedy_at_0_and_takes_no_number() -> None:
    sampler = make_sampler(config("llama2.c", temperature=0.0), 5, 4)
    assert sampler.sample(np.array([1, 3, 3, 2, 9], np.float32), ()) == 1
    with pytest.raises(RunError, match=r"seed = 0; expected another"):
        make_sampler(config("llama2.c", seed=0), 4, 4)
    assert make_sampler(config("llama2.c", seed=None), 4, 4).seed > 0


# The others: what they may draw, and how often


def shares(name: str, logits: NDArray[np.float32], draws: int = 700, **settings: Any) -> Counter[int]:
    sampler = make_sampler(config(name, **settings), len(logits), len(logits))
    return Counter(sampler.sample(logits, ()) for _ in range(draws))


def expected_meta(p: NDArray[np.float64], top_p: float) -> dict[int, float]:
    kept: dict[int, float] = {}
    before = 0.0
    for i in sorted(range(len(p)), key=lambda i: (-p[i], i)):
        if before > top_p:
            break
        kept[i] = p[i]
        before += p[i]
    return {i: x / sum(kept.values()) for i, x in kept.items()}


def expected_sample_py(p: NDArray[np.float64], k: int) -> dict[int, float]:
    least = sorted(p)[-min(k, len(p))] if k else 0.0
    kept = {i: x for i, x in enumerate(p) if x >= least}
    return {i: x / sum(kept.values()) for i, x in kept.items()}


def expected_learning_lm(p: NDArray[np.float64], k: int, top_p: float) -> dict[int, float]:
    order = sorted(range(len(p)), key=lambda i: (-p[i], i))
    most = min(sum(p[i] for i in order[:k]), top_p)
    out: dict[int, float] = {}
    before = 0.0
    for i in order:
        share = min(before + p[i], most) - min(before, most)
        if share > 0:
            out[i] = share / most
        before += p[i]
    return out


def check_shares(found: Counter[int], expected: dict[int, float]) -> None:
    draws = sum(found.values())
    assert set(found) <= set(expected)
    for i, share in expected.items():
        bound = 5 * math.sqrt(share * (1 - share) / draws) + 1 / draws
        assert found[i] / draws == pytest.approx(share, abs=bound)


@pytest.mark.parametrize("ties", [False, True])
def test_each_draws_by_its_rule(ties: bool) -> None:
    rng = random.Random(int(ties))
    for case in range(4):
        logits = logits_of(100 + case, rng.choice([3, 9, 20]), ties=ties)
        temperature, top_p, k = rng.choice([0.5, 1.0, 2.0]), rng.choice([0.2, 0.6, 0.95]), rng.choice([2, 4, 50])
        x = logits.astype(np.float64) / temperature
        p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        check_shares(shares("meta", logits, temperature=temperature, top_p=top_p), expected_meta(p, top_p))
        check_shares(shares("sample.py", logits, temperature=temperature, top_k=k), expected_sample_py(p, k))
        found = shares("learning-lm-rs", logits, temperature=temperature, top_k=k, top_p=top_p)
        check_shares(found, expected_learning_lm(p, k, top_p))


def test_where_they_differ_from_ours() -> None:
    half = np.log(np.array([0.5, 0.25, 0.15, 0.1])).astype(np.float32)
    # ours stops as soon as p is reached, Meta's takes one more where the mass before equals it
    assert set(shares("meta", half, top_p=0.4999)) == {0}
    assert set(shares("meta", half, top_p=0.5001)) == {0, 1}
    ties = np.array([2, 1, 1, 0], np.float32)
    assert set(shares("sample.py", ties, top_k=2)) == {0, 1, 2}  # all that equal the second
    assert set(shares("learning-lm-rs", ties, top_k=2)) == {0, 1}  # the lower id
    equal = np.array([1, 3, 3, 2], np.float32)
    for settings in ({"temperature": 0.0, "top_k": 9}, {"top_k": 0}, {"top_k": 1}, {"top_k": 9, "top_p": 0.0}):
        assert set(shares("learning-lm-rs", equal, 5, **settings)) == {2}  # greedy takes the last of equals
    assert set(shares("sample.py", equal, 5, temperature=0.0)) == set(shares("meta", equal, 5, temperature=0.0)) == {1}


# What all of them keep


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_seed_repeats_and_padding_is_never_drawn(variant: str) -> None:
    settings = config(variant, temperature=5.0, seed=7)
    logits = logits_of(3, 40)
    logits[30:] = 50
    logits[39] = np.nan  # no token: nobody looks
    first, second = (make_sampler(settings, 40, 30) for _ in range(2))
    drawn = [first.sample(logits, ()) for _ in range(50)]
    assert drawn == [second.sample(logits, ()) for _ in range(50)]
    assert max(drawn) < 30
    assert first.seed == 7
    logits[3] = np.nan
    with pytest.raises(RunError, match=r"^logits: NaN in 1 of 30"):
        first.sample(logits, ())
    with pytest.raises(RunError, match=r"41 tokens allowed"):
        make_sampler(settings, 40, 41)


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_a_sampler_does_not_have_are_refused(variant: str) -> None:
    plain = {"min_p": 0.1, "repetition_penalty": 1.5, "logit_bias": {1: 1.0}, "top_k": 3, "top_p": 0.5}
    for name, value in plain.items():
        if name in VARIANTS[variant]:
            assert config(variant, **{name: value}).variant == variant
        else:
            with pytest.raises(RunError, match=rf"^sampler: {variant} has no {name}; expected some of "):
                config(variant, **{name: value})


def test_no_variant_is_our_own() -> None:
    assert isinstance(make_sampler(SamplerConfig(), 4, 4), Sampler)
    for wrong in ("run.c", "", 5, ["meta"]):
        with pytest.raises(RunError, match=r"^sampler: variant = .*; expected llama2\.c, sample\.py, meta"):
            SamplerConfig(variant=wrong)  # pyright: ignore[reportArgumentType]
