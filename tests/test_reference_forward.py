"""The oracle is right.

It gives the golden logits, hidden states, attention, greedy ids and perplexity of independent implementations, and
obeys laws that need no data at all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from graphllm.frontends.config import ModelConfig, RopeScaling
from tests.golden_checkpoints import DENSE_TINY, Model, read_hf, read_v0
from tests.model_zoo import ZOO, random_tensors, tensor_shapes
from tests.reference_forward import (
    F64,
    Tensors,
    reference_forward,
    reference_greedy,
    reference_hidden,
    reference_logits,
    reference_nll,
    rope_frequencies,
)
from tests.shared_data import shared

REAL = {
    "real/stories260K/stories260K.bin": "golden/stories260K",
    "real/stories260K-hf": "golden/stories260K",
    "real/story-hf": "golden/story",
}


@cache
def read(path: Path) -> Model:
    return read_v0(path) if path.suffix == ".bin" else read_hf(path)


def assert_close(ours: F64, golden: Path, noise: float) -> None:
    expected = np.load(golden)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= max(2e-4, 10 * noise)


@pytest.mark.parametrize("name", DENSE_TINY)
def test_tiny_goldens(name: str) -> None:
    """Logits of every position, and greedy ids: each golden id is the argmax after the golden ids before it."""
    folder = shared(f"tiny/{name}")
    config, tensors = read(folder)
    prompts = json.loads((folder / "golden/golden.json").read_text(encoding="utf-8"))["prompts"]
    for prompt, facts in prompts.items():
        given, greedy = facts["prompt_ids"], facts["greedy_ids"]
        logits = reference_logits(config, tensors, given + greedy[:-1])
        noise = facts["max_abs_err_hf_f32_vs_numpy_f64"]
        assert_close(logits[: len(given)], folder / f"golden/logits_{prompt}.npy", noise)
        assert logits[len(given) - 1 :].argmax(axis=1).tolist() == greedy


@pytest.mark.parametrize("source", REAL)
def test_real_logits_and_hidden_states(source: str) -> None:
    config, tensors = read(shared(source))
    golden = shared(REAL[source])
    meta = json.loads((golden / "meta.json").read_text(encoding="utf-8"))
    ours = reference_forward(config, tensors, meta["logits32_ids"])
    assert_close(ours.logits, golden / "logits32.npy", meta["max_abs_err_hf_f32_vs_numpy_f64"])
    expected = np.load(golden / "hidden32.npz")
    assert set(ours.hidden) == set(expected.files)
    for key, noise in meta["hidden_max_abs_err_hf_f32_vs_numpy_f64"].items():
        assert np.abs(ours.hidden[key] - expected[key]).max() <= max(2e-4, 10 * noise), key


@pytest.mark.parametrize("source", ["real/stories260K/stories260K.bin", "real/story-hf"])
def test_real_greedy_ids(source: str) -> None:
    config, tensors = read(shared(source))
    first = json.loads((shared(REAL[source]) / "greedy.json").read_text(encoding="utf-8"))[0]
    given, greedy = first["prompt_ids"], first["greedy_ids"]
    logits = reference_logits(config, tensors, given + greedy[:-1])
    assert logits[len(given) - 1 :].argmax(axis=1).tolist() == greedy
    assert reference_greedy(config, tensors, given, 8) == greedy[:8]


def test_attention_of_a_third_implementation() -> None:
    config, tensors = read(shared("real/story-hf"))
    expected = np.load(shared("golden/story/attn_probs_thirdparty_rust.npy"))
    ours = reference_forward(config, tensors, [1, 80, 147, 201, 282, 57]).attention
    assert np.abs(np.array(ours) - expected).max() < 1e-5


def test_perplexity_window() -> None:
    config, tensors = read(shared("real/stories260K/stories260K.bin"))
    window = json.loads(shared("golden/stories260K/ppl_ids.json").read_text(encoding="utf-8"))[:255]
    expected = np.load(shared("golden/stories260K/ppl_nll.npy")).ravel()[:255]
    assert np.abs(reference_nll(config, tensors, [1, *window]) - expected).max() < 2e-4


def zoo_model(name: str, seed: int) -> tuple[ModelConfig, Tensors, list[int]]:
    config = ZOO[name]
    ids = np.random.default_rng(seed).integers(0, config.vocab, 14).tolist()
    return config, random_tensors(config, seed), ids


@pytest.mark.parametrize("name", ZOO)
def test_a_position_sees_only_what_came_before(name: str) -> None:
    config, tensors, ids = zoo_model(name, 1)
    whole = reference_logits(config, tensors, ids)
    assert whole.shape == (len(ids), config.vocab)
    assert np.isfinite(whole).all()
    changed = [*ids[:9], (ids[9] + 1) % config.vocab, *ids[10:]]
    other = reference_logits(config, tensors, changed)
    assert (other[:9] == whole[:9]).all()
    assert np.abs(other[9] - whole[9]).max() > 1e-3


@pytest.mark.parametrize("name", ZOO)
def test_every_tensor_matters(name: str) -> None:
    """No flag is silently ignored: shaking any tensor of the model moves the logits."""
    config, tensors, ids = zoo_model(name, 2)
    before = reference_logits(config, tensors, ids[:5])
    rng = np.random.default_rng(3)
    for tensor, shape in tensor_shapes(config).items():
        layer, _, kind = tensor.rpartition(".")
        if kind in ("wq", "wk") and config.window(int(layer[1:])) == 1:
            continue  # a position that sees only itself has nothing to weigh
        shaken = {**tensors, tensor: tensors[tensor] + 0.1 * rng.standard_normal(shape)}
        assert np.abs(reference_logits(config, shaken, ids[:5]) - before).max() > 1e-6, tensor


@pytest.mark.parametrize("name", [name for name, config in ZOO.items() if config.rope_pairing == "interleaved"])
def test_the_two_pairings_are_one_model_permuted(name: str) -> None:
    config, tensors, ids = zoo_model(name, 4)
    # Rows 2i and 2i+1 of a head become rows i and i + d/2.
    order = np.concatenate([np.arange(0, config.head_dim, 2), np.arange(1, config.head_dim, 2)])
    permuted = dict(tensors)
    for tensor, value in tensors.items():
        if tensor.rpartition(".")[2] in ("wq", "wk", "bq", "bk", "q_norm", "k_norm"):
            heads = value.reshape(-1, config.head_dim, *value.shape[1:])
            permuted[tensor] = heads[:, order].reshape(value.shape)
    ours = reference_logits(replace(config, rope_pairing="half"), permuted, ids)
    assert np.abs(ours - reference_logits(config, tensors, ids)).max() < 1e-10
    if config.head_dim > 2:  # with a single pair the two are the same
        assert np.abs(ours - reference_logits(config, permuted, ids)).max() > 1e-3


@pytest.mark.parametrize("name", ["plain", "odd_interleaved", "mqa"])
def test_windows(name: str) -> None:
    config, tensors, ids = zoo_model(name, 5)
    full = reference_forward(config, tensors, ids)
    for window in (len(ids), len(ids) + 7):
        wide = reference_logits(replace(config, windows=(window,) * config.layers), tensors, ids)
        assert (wide == full.logits).all()
    narrow = reference_forward(replace(config, windows=(3,) * config.layers), tensors, ids)
    assert (narrow.logits[:3] == full.logits[:3]).all()
    assert np.abs(narrow.logits[3] - full.logits[3]).max() > 1e-4
    reach = np.tril(np.ones((len(ids), len(ids)))) - np.tril(np.ones((len(ids), len(ids))), -3)
    for probabilities in narrow.attention:
        assert ((probabilities > 0) == (reach > 0)).all()
        assert np.allclose(probabilities.sum(axis=-1), 1)


def test_grouped_heads_equal_repeated_ones() -> None:
    config, tensors, ids = zoo_model("all_biases", 6)
    repeated = dict(tensors)
    for tensor, value in tensors.items():
        if tensor.rpartition(".")[2] in ("wk", "wv", "bk", "bv"):
            heads = value.reshape(config.kv_heads, config.head_dim, *value.shape[1:])
            spread = np.repeat(heads, config.heads // config.kv_heads, axis=0)
            repeated[tensor] = spread.reshape(-1, *value.shape[1:])
    ours = reference_logits(replace(config, kv_heads=config.heads), repeated, ids)
    assert np.abs(ours - reference_logits(config, tensors, ids)).max() < 1e-12


@pytest.mark.parametrize(
    "neutral",
    [
        RopeScaling("linear", factor=1.0),
        RopeScaling("llama3", factor=1.0, original_context=16),
        RopeScaling("llama3", factor=8.0, original_context=10**12),
        RopeScaling("yarn", factor=1.0, original_context=16, attention_factor=1.0),
    ],
)
def test_scalings_that_change_nothing(neutral: RopeScaling) -> None:
    config, tensors, ids = zoo_model("plain", 7)
    ours = reference_logits(replace(config, rope_scaling=neutral), tensors, ids)
    assert np.abs(ours - reference_logits(config, tensors, ids)).max() < 1e-10


@pytest.mark.parametrize("name", [name for name, config in ZOO.items() if config.rope_scaling.kind != "default"])
def test_scalings_that_change_something(name: str) -> None:
    config, tensors, ids = zoo_model(name, 8)
    plain = reference_logits(replace(config, rope_scaling=RopeScaling()), tensors, ids)
    assert np.abs(plain - reference_logits(config, tensors, ids)).max() > 1e-3


def test_yarn_keeps_fast_pairs_and_slows_the_slow_ones() -> None:
    """The small golden reaches only one end of the blend; here a long model reaches both."""
    scaling = RopeScaling("yarn", factor=4.0, original_context=32768, attention_factor=1.25, truncate=False)
    config = replace(ZOO["plain"], head_dim=128, rope_theta=1e6, rope_scaling=scaling)
    plain, _ = rope_frequencies(replace(config, rope_scaling=RopeScaling()))
    bent, magnitude = rope_frequencies(config)
    assert magnitude == 1.25
    kinds: set[str] = set()
    for before, after in zip(plain, bent, strict=True):
        turns = before * scaling.original_context / (2 * np.pi)
        if turns >= scaling.beta_fast:
            kinds.add("kept")
            assert after == before
        elif turns <= scaling.beta_slow:
            kinds.add("slowed")
            assert after == before / scaling.factor
        else:
            kinds.add("blended")
            assert before / scaling.factor < after < before
    assert kinds == {"kept", "slowed", "blended"}


def test_a_tied_model_is_an_untied_one_with_equal_matrices() -> None:
    config, tensors, ids = zoo_model("tied", 9)
    untied = reference_logits(replace(config, tied=False), {**tensors, "lm_head": tensors["tok_emb"]}, ids)
    assert (untied == reference_logits(config, tensors, ids)).all()


def test_greedy_hidden_and_nll_say_what_the_logits_say() -> None:
    config, tensors, ids = zoo_model("everything", 10)
    logits = reference_logits(config, tensors, ids)
    assert reference_greedy(config, tensors, ids, 1) == [int(logits[-1].argmax())]
    assert reference_greedy(config, tensors, ids, 0) == []
    final = reference_hidden(config, tensors, ids)["final_norm"]
    assert np.abs(final @ tensors["lm_head"].astype(np.float64).T - logits).max() < 1e-10
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [-np.log(probabilities[t, ids[t + 1]]) for t in range(len(ids) - 1)]
    assert np.allclose(reference_nll(config, tensors, ids), expected)
