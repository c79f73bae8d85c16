"""The tokens that a device chooses are those the host's sampler would have: same settings, same random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cuda.generate import generate
from graphllm.plan.launch import HEADER, HEADER_WORDS, SETTINGS
from graphllm.runtime.sampling import Sampler, SamplerConfig
from graphllm.runtime.sampling.stages import draw
from tests.cuda_open_device import OpenDevice, cuda_lowered, needs_a_compiler

__all__ = ["needs_a_compiler"]
VOCAB = 1031
Logits = NDArray[np.float32]
Settings = Mapping[str, float]


@pytest.fixture(scope="module")
def device() -> OpenDevice:
    """The kernel that chooses, every access to memory looked at."""
    model = cuda_lowered("odd_sizes", context=16, slots=4)
    program = generate(model.module)
    own = {name: kernel for name, kernel in program.kernels.items() if name.startswith("choose")}
    assert len(own) == 1  # for any number of rows
    return OpenDevice(model.module, model.weights, seed=1, watch=True, program=replace(program, kernels=own))


def run(
    device: OpenDevice, function: str, logits: Logits, settings: Sequence[Settings], positions: Sequence[int]
) -> list[int]:
    """What the choice of a step makes of logits [T,V]; ``random`` among the settings is where a draw falls."""
    stream = device.program.streams[function]
    at = device.arena[stream.logits :][: 4 * stream.rows * VOCAB].view(np.float32).reshape(stream.rows, VOCAB)
    at[...] = np.nan  # rows that are not there
    at[: len(logits)] = logits
    device.words.fill(0)
    device.words[HEADER["live"]] = len(logits)
    rows = device.words[HEADER_WORDS : stream.tokens].reshape(-1, 3)
    rows[:, 1] = [*positions, *[-1] * (stream.rows - len(positions))]
    device.words[stream.tokens : stream.draws] = -7
    draws = device.words[stream.draws : stream.settings].view(np.uint64)
    words = device.words[stream.settings : stream.words].reshape(stream.rows, -1)
    for t, own in enumerate(settings):
        draws[t] = own.get("random", 0)
        for name, value in own.items():
            if name != "random":
                words.view(np.float32 if name in ("temperature", "top_p", "min_p") else np.int32)[t, SETTINGS[name]] = (
                    value
                )
    device.driver.run(device.driver.graph([device.resolved(launch) for launch in stream.choice]))
    device.driver.wait(device.driver.mark())
    return device.words[stream.tokens : stream.draws].tolist()


def chosen(device: OpenDevice, logits: Logits, **settings: float) -> int:
    """What the choice of a decode step makes of these logits."""
    return run(device, "decode", logits[None], [settings], [0])[0]


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


CHOICES: list[Settings] = [
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


def of_host(logits: Logits, settings: Settings, r: int) -> tuple[int, float]:
    """The token that the host draws, and how far the number is from where another one begins."""
    sampler = Sampler(SamplerConfig(seed=1, **settings), VOCAB, VOCAB)  # type: ignore[arg-type]
    ids, weights = sampler.candidates(logits, [])
    weights = np.array(weights)
    ends = weights.cumsum() / weights.sum()
    return int(ids[draw(weights, r / 2**64)]), float(np.abs(ends - r / 2**64).min())


def some_logits(rng: np.random.Generator, kind: str) -> Logits:
    logits = (3 * rng.standard_normal(VOCAB)).astype(np.float32)
    return np.round(logits) if kind == "ties" else logits


@pytest.mark.parametrize("settings", CHOICES, ids=str)
@pytest.mark.parametrize("kind", ["spread", "ties"])
def test_draws(device: OpenDevice, settings: Settings, kind: str) -> None:
    rng = np.random.default_rng(3)
    parted = 0
    for _ in range(12):
        logits, r = some_logits(rng, kind), int(rng.integers(0, 1 << 64, dtype=np.uint64))
        found = chosen(device, logits, **({"top_p": 1.0} | dict(settings)), random=r)
        wanted, margin = of_host(logits, settings, r)
        if found != wanted:  # only where the random number falls on the edge of two
            parted += 1
            assert margin < 1e-5
    assert parted <= 1


@pytest.mark.parametrize(("function", "live"), [("decode_2", 1), ("decode_2", 2), ("decode_4", 3), ("decode_4", 4)])
def test_each_row_by_its_own_settings(device: OpenDevice, function: str, live: int) -> None:
    rng = np.random.default_rng(live)
    parted = 0
    for turn in range(4):
        logits = np.stack([some_logits(rng, "spread" if turn else "ties") for _ in range(live)])
        settings = [({}, *CHOICES)[i] for i in rng.integers(0, len(CHOICES) + 1, live)]
        numbers = [int(r) for r in rng.integers(0, 1 << 64, live, dtype=np.uint64)]
        said = [
            {"top_p": 1.0, "random": r, "advance": t % 2} | dict(s)
            for t, (s, r) in enumerate(zip(settings, numbers, strict=True))
        ]
        positions = rng.integers(0, 9, live).tolist()
        found = run(device, function, logits, said, positions)
        assert found[live:] == [-7] * (len(found) - live)  # blanks are left alone, whatever their logits
        rows = device.words[HEADER_WORDS:][: 3 * len(found)].reshape(-1, 3).copy()
        assert (rows[live:] == [0, -1, 0]).all()
        for t in range(live):
            on = said[t]["advance"]
            assert rows[t].tolist() == [on * found[t], positions[t] + on, 0]
            if not settings[t]:
                assert found[t] == logits[t].argmax()
                continue
            wanted, margin = of_host(logits[t], settings[t], numbers[t])
            parted += found[t] != wanted
            assert found[t] == wanted or margin < 1e-5
            assert found[t] == chosen(device, logits[t], **(said[t] | {"advance": 0}))  # as if it were alone
    assert parted <= 1


def test_a_row_without_numbers_harms_no_other(device: OpenDevice) -> None:
    logits = np.stack([some_logits(np.random.default_rng(5), "spread") for _ in range(4)])
    logits[1, 9] = np.nan
    found = run(device, "decode_4", logits, [{}] * 4, [0, 3, 1, -1])  # and the last one is a blank
    assert found == [logits[0].argmax(), -1, logits[2].argmax(), -7]


def test_the_token_becomes_the_next_row(device: OpenDevice) -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[5] = 1
    assert chosen(device, logits, advance=1) == 5
    assert device.words[HEADER_WORDS:][:3].tolist() == [5, 1, 0]
