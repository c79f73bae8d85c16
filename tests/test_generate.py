"""From prompt to answer: what ends one, what a seed and a batch may not change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from graphllm.errors import RunError
from graphllm.runtime.generate import Progress, generate_tokens
from graphllm.runtime.sampling import Sampler, SamplerConfig
from tests.lowered_models import engine, lowered
from tests.reference_forward import reference_greedy
from tests.scripted_engine import GREEDY, NEVER, answer, batch, scripted

# One answer


@pytest.mark.parametrize("name", ["plain", "odd_interleaved", "everything"])
def test_greedy_answers_are_the_references(name: str) -> None:
    model = lowered(name)
    prompt = [1, 5, 9, 2, 7]
    want = reference_greedy(model.config, model.tensors, prompt, 15)
    got = answer(engine(model, poison=True), prompt, 15, slot=2)
    assert got.tokens == want
    assert (got.finish, got.prompt_tokens) == ("length", 5)


@pytest.mark.parametrize("where", range(6))
def test_a_stop_id_ends_an_answer_and_is_not_part_of_it(where: int) -> None:
    script = [1, 2, 3, 11, 12, 13, 14, 15, 16]
    got = answer(scripted(script), script[:3], 6, frozenset({script[3 + where], 66}))
    assert (got.tokens, got.finish) == (script[3 : 3 + where], "stop")
    got = batch(scripted(script), [script[:3]], 6, stop_ids=frozenset({script[3 + where], 66}))[0]
    assert (got.tokens, got.finish) == (script[3 : 3 + where], "stop")


@pytest.mark.parametrize(
    ("max_tokens", "tokens", "finish"),
    [(0, 0, "length"), (1, 1, "length"), (7, 7, "length"), (9, 9, "length"), (10, 9, "context"), (None, 9, "context")],
)
def test_how_many_tokens(max_tokens: int | None, tokens: int, finish: str) -> None:
    """A context of 48 holds 40 of a prompt and 8 answers; the 9th needs no position of its own."""
    script = list(range(1, 64))
    for got in (
        answer(scripted(script), script[:40], max_tokens),
        *batch(scripted(script, script), [script[:40], script[:40]], max_tokens),
    ):
        assert (got.tokens, got.finish, got.prompt_tokens) == (script[40 : 40 + tokens], finish, 40)
    full = answer(scripted(script), script[:48], max_tokens)
    assert full.tokens == script[48 : 48 + min(tokens, 1)]


def test_what_cannot_be_answered() -> None:
    e = scripted([1, 2, 3])
    for call in (lambda: answer(e, [1], -1), lambda: batch(e, [[1]], -1)):
        with pytest.raises(RunError, match=r"^max_tokens: -1; expected 0 or more"):
            call()
    for call in (lambda: answer(e, [1] * 49), lambda: batch(e, [[1], [1] * 49])):
        with pytest.raises(RunError, match=r"^context: 49 tokens do not fit in 48 positions"):
            call()
    for call in (lambda: answer(e, []), lambda: batch(e, [[1], []])):
        with pytest.raises(RunError, match=r"^prompt: no tokens"):
            call()


def test_an_answer_left_early_is_cancelled() -> None:
    progress = Progress()
    e = scripted(list(range(1, 40)))
    sampler = Sampler(GREEDY, e.vocab, e.vocab)
    tokens = generate_tokens(e, [1, 2], sampler, max_tokens=20, stop_ids=NEVER, progress=progress)
    assert [next(iter(tokens)) for _ in range(3)] == [3, 4, 5]
    assert isinstance(tokens, Iterator)
    del tokens
    assert (progress.finish, progress.tokens) == ("cancelled", [3, 4, 5])
    e.truncate(0)
    assert answer(e, [1, 2, 3], 2).tokens == [4, 5]


def test_speeds_count_what_was_done() -> None:
    progress = Progress(prompt_tokens=10, tokens=[1, 2, 3], prefill_seconds=0.5, decode_seconds=0.25)
    assert (progress.prefill_speed, progress.decode_speed) == (20.0, 8.0)
    assert (Progress().prefill_speed, Progress().decode_speed) == (0.0, 0.0)


# Seeds and batches


def test_a_seed_is_an_answer() -> None:
    model = lowered("everything")
    e = engine(model)

    def said(seed: int | None) -> tuple[list[int], int]:
        e.truncate(0)
        sampler = Sampler(SamplerConfig(temperature=1.5, seed=seed), e.vocab, e.vocab)
        progress = Progress()
        list(generate_tokens(e, [3, 4, 5], sampler, max_tokens=20, stop_ids=NEVER, progress=progress))
        return progress.tokens, sampler.seed

    assert said(5) == said(5)
    assert len({tuple(said(seed)[0]) for seed in range(6)}) == 6
    tokens, seed = said(None)
    assert said(seed) == (tokens, seed)
    assert said(None)[1] != seed


@pytest.mark.parametrize("name", ["plain", "window_mixed", "odd_sizes"])
@pytest.mark.parametrize(
    "config",
    [GREEDY, SamplerConfig(temperature=1.3, top_p=0.9, repetition_penalty=1.2, seed=11)],
    ids=["greedy", "hot"],
)
def test_a_batch_says_what_each_would_say_alone(name: str, config: SamplerConfig) -> None:
    """Prompts of different lengths, answers that stop at different times: a stop id, the context, the count."""
    model = lowered(name)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, model.config.vocab, n).tolist() for n in (1, 44, 9, 20)]
    alone: list[Progress] = []
    for i, prompt in enumerate(prompts):
        own = replace(config, seed=config.seed + i) if config.seed is not None else config
        alone.append(answer(engine(model), prompt, 12, config=own))
    stop = frozenset({alone[2].tokens[4]})
    for n in (1, 2, 3, 4):
        e = engine(model)
        e.feed([1, 2, 3], n - 1)  # slots are emptied first
        together = batch(e, prompts[:n], 12, config=config)
        assert [p.tokens for p in together] == [p.tokens for p in alone[:n]]
        assert [p.finish for p in together] == ["length", "context", "length", "length"][:n]
    e = engine(model)
    for got, whole in zip(batch(e, prompts, 12, config=config, stop_ids=stop), alone, strict=True):
        cut = next((i for i, token in enumerate(whole.tokens) if token in stop), None)
        assert got.tokens == whole.tokens[:cut]
        assert (got.finish == "stop") == (cut is not None)
    assert batch(e, [], 5) == []


def test_ids_without_a_token_are_never_sampled() -> None:
    model = lowered("plain")
    e = engine(model)
    for config in (GREEDY, SamplerConfig(temperature=50.0, seed=1), SamplerConfig(temperature=2.0, top_k=60, seed=1)):
        for allowed in (1, 7, 66):
            e.truncate(0)
            progress = Progress()
            sampler = Sampler(config, e.vocab, allowed)
            said = generate_tokens(e, [60, 66], sampler, max_tokens=30, stop_ids=NEVER, progress=progress)
            assert max(said) < allowed
            for p in batch(e, [[60], [66]], 15, config=config, allowed=allowed):
                assert max(p.tokens) < allowed
