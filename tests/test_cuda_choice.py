"""The token that a device chooses is the one the host's sampler would have: same settings, same random number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.plan.launch import HEADER
from graphllm.runtime.sampling import Sampler, SamplerConfig
from graphllm.runtime.sampling.stages import draw
from tests.cuda_open_device import OpenDevice, cuda_lowered, needs_a_compiler

__all__ = ["needs_a_compiler"]
VOCAB = 1031


@pytest.fixture(scope="module")
def device() -> OpenDevice:
    model = cuda_lowered("odd_sizes", context=16, slots=1)
    return OpenDevice(model.module, model.weights, seed=1)


def chosen(device: OpenDevice, logits: NDArray[np.float32], **header: float) -> int:
    """What the choice of a decode step makes of these logits."""
    stream = device.program.streams["decode"]
    device.arena[stream.logits : stream.logits + 4 * VOCAB].view(np.float32)[...] = logits
    device.words.fill(0)
    for name, value in header.items():
        kind = np.float32 if name in ("temperature", "top_p", "min_p") else np.uint32
        device.words.view(kind)[HEADER[name]] = value
    device.driver.run(device.driver.graph([device.resolved(launch) for launch in stream.choice]))
    device.driver.wait(device.driver.mark())
    return int(device.words[HEADER["token"]])


def test_the_likeliest(device: OpenDevice) -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        logits = rng.standard_normal(VOCAB).astype(np.float32)
        assert chosen(device, logits) == logits.argmax()
        logits[rng.integers(0, VOCAB, 3)] = 9  # the first of equals
        assert chosen(device, logits) == logits.argmax()
        assert chosen(device, logits, allowed=700) == logits[:700].argmax()
    assert chosen(device, np.full(VOCAB, -3, np.float32)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers(device: OpenDevice, bad: float) -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[700] = bad
    assert chosen(device, logits, temperature=1.0, top_p=1.0) == -1
    assert chosen(device, logits) == -1
    assert chosen(device, logits, allowed=700) == 0  # nobody asked for that one
    assert chosen(device, np.full(VOCAB, -np.inf, np.float32)) == -1


SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 40.0},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_p": 0.5},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 40},
    {"temperature": 1.5, "min_p": 0.2},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 100, "min_p": 0.05},
    {"temperature": 1.0, "top_p": 1e-6},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", ["spread", "ties"])
def test_draws(device: OpenDevice, settings: dict[str, float], kind: str) -> None:
    rng = np.random.default_rng(3)
    parted = 0
    for _ in range(12):
        logits = (3 * rng.standard_normal(VOCAB)).astype(np.float32)
        if kind == "ties":
            logits = np.round(logits)
        r = int(rng.integers(0, 1 << 64, dtype=np.uint64))
        sampler = Sampler(SamplerConfig(seed=1, **settings), VOCAB, VOCAB)  # type: ignore[arg-type]
        ids, weights = sampler.candidates(logits, [])
        weights = np.array(weights)
        found = chosen(device, logits, **({"top_p": 1.0} | settings), random=r >> 32, random_low=r & 0xFFFFFFFF)
        assert found in ids
        wanted = int(ids[draw(weights, r / 2**64)])
        if found != wanted:  # only where the random number falls on the edge of two
            parted += 1
            ends = weights.cumsum() / weights.sum()
            assert np.abs(ends - r / 2**64).min() < 1e-5
    assert parted <= 1


def test_the_token_becomes_the_next_row(device: OpenDevice) -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[5] = 1
    assert chosen(device, logits, advance=1) == 5
    assert device.words[16:19].tolist() == [5, 1, 0]
