"""Whole models against independent implementations: ids, logits, hidden states, perplexity, text.

Everything goes the way a user goes: compile to a plan, load the plan, run. The golden files say how exact they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm
from graphllm.ir.core import Module, Value, Weight
from graphllm.ir.interpreter import interpret
from tests.checkpoint_writers import write_llama2c
from tests.golden_checkpoints import DENSE_TINY, read_v0
from tests.shared_data import shared

Load = Callable[[str], graphllm.Model]
REAL = {
    "real/stories260K/stories260K.bin": "golden/stories260K",
    "real/stories260K-hf": "golden/stories260K",
    "real/story-hf": "golden/story",
}
TOKENIZERS = {"real/stories260K/stories260K.bin": "real/stories260K/tok512.bin"}


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A checkpoint of the public test data, compiled and loaded, once for all tests here."""
    folder, models = tmp_path_factory.mktemp("plans"), dict[str, graphllm.Model]()

    def get(relative: str) -> graphllm.Model:
        if relative not in models:
            plan = folder / f"{len(models)}.gllm"
            tokenizer = TOKENIZERS.get(relative)
            graphllm.compile(shared(relative), plan, tokenizer=shared(tokenizer) if tokenizer else None)
            models[relative] = graphllm.load(plan)
        return models[relative]

    return get


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def one_by_one(model: graphllm.Model, ids: list[int]) -> NDArray[np.float32]:
    """Logits [T,V] of every position, a step of one row each."""
    model.engine.truncate(0)
    return np.array([np.array(model.engine.step(token)) for token in ids])


def prefilled(model: graphllm.Model, ids: list[int]) -> NDArray[np.float32]:
    """Logits [V] after the last id, by the chunks of a prompt."""
    model.engine.truncate(0)
    return np.array(model.engine.feed(ids))


def assert_logits(
    model: graphllm.Model, ids: list[int], expected: NDArray[Any], noise: float, prompt_bound: float = 0.0
) -> None:
    """In blocks, one by one, and the last of a prompt, which may be off by ``prompt_bound`` of the largest logit."""
    bound = max(2e-4, 10 * noise)
    scored = model.logits(ids)
    assert scored.shape == expected.shape
    assert scored.dtype == np.float32
    assert np.abs(scored - expected).max() <= bound
    assert np.abs(one_by_one(model, ids) - expected).max() <= bound
    assert np.abs(prefilled(model, ids) - expected[-1]).max() <= max(bound, prompt_bound * np.abs(expected).max())


@pytest.mark.parametrize("prompt", ["long", "single"])
@pytest.mark.parametrize("name", [*DENSE_TINY, "qwen3_moe"])
def test_tiny(load: Load, name: str, prompt: str) -> None:
    model, folder = load(f"tiny/{name}"), shared(f"tiny/{name}/golden")
    facts = document(folder / "golden.json")["prompts"][prompt]
    noise = facts["max_abs_err_hf_f32_vs_numpy_f64"]
    assert_logits(model, facts["prompt_ids"], np.load(folder / f"logits_{prompt}.npy"), noise)
    answer = model.generate(facts["prompt_ids"], max_tokens=48, ignore_eos=True)
    assert list(answer.tokens) == facts["greedy_ids"]
    assert (answer.finish, answer.prompt_tokens) == ("length", len(facts["prompt_ids"]))


@pytest.mark.parametrize("source", REAL)
def test_logits(load: Load, source: str) -> None:
    golden = shared(REAL[source])
    meta = document(golden / "meta.json")
    noise = meta["max_abs_err_hf_f32_vs_numpy_f64"]
    assert_logits(load(source), meta["logits32_ids"], np.load(golden / "logits32.npy"), noise)
    if (run_c := golden / "logits32_runc.npy").exists():  # what llama2.c itself computes
        assert np.abs(load(source).logits(meta["logits32_ids"]) - np.load(run_c)).max() <= max(2e-4, 10 * noise)


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("source", REAL)
def test_greedy(load: Load, source: str, case: int) -> None:
    """200 ids; the prompt's own ids from its text; the text, as long as no end token comes between."""
    model, facts = load(source), document(shared(REAL[source]) / "greedy.json")[case]
    answer = model.generate(facts["prompt_ids"], max_tokens=200, ignore_eos=True)
    assert list(answer.tokens) == facts["greedy_ids"]
    assert model.encode(facts["prompt"]) == facts["prompt_ids"]
    end = facts["first_bos_or_eos_step"]
    stream = model.stream(facts["prompt"], max_tokens=200)
    text = "".join(stream)
    assert stream.progress.tokens == facts["greedy_ids"][:end]
    assert stream.progress.finish == ("length" if end is None else "stop")
    # the golden text was decoded without its prompt, so the space between the two was dropped
    assert facts["greedy_text"].startswith(text.removeprefix(" "))
    if end is None:
        assert text.removeprefix(" ") == facts["greedy_text"]
    assert len(text) > 3 * len(stream.progress.tokens) / 2


def test_the_real_model_in_version_1(load: Load, tmp_path: Path) -> None:
    """It holds the same numbers in another order. Version 2: see test_convert."""
    config, tensors = read_v0(shared("real/stories260K/stories260K.bin"))
    facts, v0 = document(shared("golden/stories260K/greedy.json"))[0], load("real/stories260K/stories260K.bin")
    write_llama2c(tmp_path / "v1.bin", config, tensors, 1)
    v1 = graphllm.load(tmp_path / "v1.bin")
    ids = [*facts["prompt_ids"], *facts["greedy_ids"][:60]]
    assert v1.logits(ids).tobytes() == v0.logits(ids).tobytes()
    assert list(v1.generate(facts["prompt_ids"], max_tokens=200, ignore_eos=True).tokens) == facts["greedy_ids"]


@pytest.mark.parametrize("source", REAL)
def test_perplexity(load: Load, source: str) -> None:
    model, golden = load(source), shared(REAL[source])
    ids, facts = document(golden / "ppl_ids.json"), document(golden / "meta.json")["ppl"]
    nll: list[NDArray[np.float64]] = []
    for at in range(0, len(ids), facts["window"]):
        window = ids[at : at + facts["window"]]
        logits = model.logits([1, *window[:-1]]).astype(np.float64)
        top = logits.max(axis=1)
        nll.append(top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[np.arange(len(window)), window])
    ours = np.concatenate(nll)
    assert len(ours) == facts["tokens"]
    assert abs(ours.mean() - facts["mean_nll"]) < 1e-4
    assert np.abs(ours - np.load(golden / "ppl_nll.npy").ravel()).max() < 1e-3


@pytest.mark.parametrize("stage", ["optimised", "lowered"])
@pytest.mark.parametrize("source", REAL)
def test_hidden_states(load: Load, source: str, stage: graphllm.api.Stage) -> None:
    """The IR in the plan, interpreted with the weights in the plan, has the golden residual stream in it by name."""
    model, golden = load(source), shared(REAL[source])
    meta = document(golden / "meta.json")
    ids, expected = meta["logits32_ids"], np.load(golden / "hidden32.npz")
    module = model.plan.stage(stage)
    names = {f"l{i}.x.ffn": f"layer{i}" for i in range(model.plan.config["layers"])}
    names |= {"x": "embed", "final": "final_norm"}
    assert sorted(names.values()) == sorted(expected.files)
    for watched in hidden_in_blocks(model, module, ids), hidden_one_by_one(model, module, ids):
        for ours, theirs in names.items():
            bound = max(2e-4, 10 * meta["hidden_max_abs_err_hf_f32_vs_numpy_f64"][theirs])
            assert np.abs(watched[ours] - expected[theirs]).max() <= bound, (ours, theirs)


def hidden_in_blocks(model: graphllm.Model, module: Module, ids: list[int]) -> dict[str, NDArray[Any]]:
    """Every value of ``score_32`` on 32 ids, by name."""
    seen: dict[str, NDArray[Any]] = {}
    steps(model, module, "score_32", [ids], lambda v, array: seen.__setitem__(v.name, np.array(array)))
    return seen


def hidden_one_by_one(model: graphllm.Model, module: Module, ids: list[int]) -> dict[str, NDArray[Any]]:
    """Every value of ``decode``, rows of all steps one below the other, by name."""
    seen: dict[str, list[NDArray[Any]]] = {}
    steps(
        model,
        module,
        "decode",
        [[i] for i in ids],
        lambda v, array: seen.setdefault(v.name, []).append(np.array(array)),
    )
    return {name: np.concatenate(arrays) for name, arrays in seen.items()}


def steps(
    model: graphllm.Model,
    module: Module,
    function: str,
    ids: list[list[int]],
    watch: Callable[[Value, NDArray[Any]], None],
) -> None:
    """Interpret successive steps of slot 0."""
    states = {s.name: np.zeros((1, s.type.shape[1], 32, s.type.shape[3]), np.float32) for s in module.states.values()}

    def read(weight: Weight) -> NDArray[Any]:
        return model.plan.file.weight(weight.name)

    start = 0
    for tokens in ids:
        inputs = {"ids": tokens, "pos": range(start, start + len(tokens)), "slot": [0] * len(tokens)}
        start += len(tokens)
        arrays = {name: np.array(values, np.int32) for name, values in inputs.items()}
        _, states = interpret(module.functions[function], arrays, read, states, watch=watch)
