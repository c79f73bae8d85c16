"""Checkpoint to plan to tokens, against the float64 oracle, on models that exist nowhere else.

Every odd little model is written in each format that can say it, compiled, loaded and run. The oracle reads the arrays
that were written, never the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.overrides import Overrides
from graphllm.ir.printer import print_module
from tests.checkpoint_writers import DTYPES, Style, quantize_groups, write_huggingface, write_llama2c
from tests.model_zoo import ZOO, random_tensors
from tests.reference_forward import F64, reference_logits

Tensors = Mapping[str, NDArray[Any]]
POSITIONS = 40  # more than a block of scored rows, and past the trained context of the scaled RoPEs
LONG_DTYPE = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}

# What each format can say. Hugging Face's Qwen3 has no biases in its feed-forward, and one width of windows.
MODELS = ZOO | {"everything": replace(ZOO["everything"], mlp_bias=False, windows=(0, 6, 6))}
HUGGINGFACE = [
    n
    for n, c in MODELS.items()
    if c.rope_pairing == "half"
    and (c.family != "llama" or not (c.qk_norm or c.windows))
    and len(set(c.windows) - {0}) < 2
]
FLAT = [
    n
    for n, c in ZOO.items()
    if c.heads * c.head_dim == c.dim and not (c.qkv_bias or c.o_bias or c.mlp_bias or c.qk_norm or c.windows)
]


def ids_of(config: ModelConfig, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, config.vocab, POSITIONS).tolist()


def rounded(tensors: Tensors, dtype: str, *, matrices_only: bool = False) -> dict[str, NDArray[Any]]:
    """What a file, or a plan, of that dtype holds."""
    to = DTYPES[LONG_DTYPE[dtype]]
    return {n: t if matrices_only and t.ndim == 1 else t.astype(to).astype(np.float32) for n, t in tensors.items()}


def close(ours: NDArray[Any], reference: F64, bound: float = 1e-5) -> None:
    """Within ``bound`` of the largest logit: f32 rounding and nothing else."""
    assert ours.shape == reference.shape
    assert np.isfinite(ours).all()
    assert np.abs(ours - reference).max() <= bound * np.abs(reference).max()


def assert_model(
    model: graphllm.Model, config: ModelConfig, tensors: Tensors, seed: int, prompt_bound: float = 1e-5
) -> None:
    """Scored, prefilled, one by one, batched: the oracle's logits; and its greedy ids.

    ``prompt_bound``: of the largest logit, for what many rows at once may be off.
    """
    ids = ids_of(config, seed)
    reference = reference_logits(config, tensors, ids)
    close(model.logits(ids), reference)
    assert model.engine.vocab == config.vocab
    engine = model.engine
    engine.truncate(0)
    close(engine.feed(ids[:-3])[None], reference[-4:-3], prompt_bound)
    close(np.array([np.array(engine.step(token)) for token in ids[-3:]]), reference[-3:], prompt_bound)
    answer = model.generate(ids[:5], max_tokens=20, ignore_eos=True)
    assert len(answer.tokens) == 20
    whole = reference_logits(config, tensors, [*ids[:5], *answer.tokens])[4:-1]
    chosen = whole[np.arange(20), list(answer.tokens)]
    assert (whole.max(axis=1) - chosen <= 1e-5 * np.abs(whole).max()).all()  # the largest, or a tie in f32


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", HUGGINGFACE)
def test_huggingface(tmp_path: Path, name: str, dtype: str) -> None:
    config, seed = MODELS[name], len(name)
    tensors = random_tensors(config, seed)
    style: Style = "v5" if dtype == "f16" else "v4"
    write_huggingface(tmp_path / "model", config, tensors, LONG_DTYPE[dtype], 3 if dtype == "bf16" else 1, style)
    model = graphllm.load(tmp_path / "model")
    assert_model(model, config, rounded(tensors, dtype), seed)


@pytest.mark.parametrize("name", FLAT)
def test_llama2c(tmp_path: Path, name: str) -> None:
    """v0 and v1 give the same bits; v2 is the oracle's on dequantised weights, and near the model it was made from."""
    config, seed = MODELS[name], len(name)
    tensors = random_tensors(config, seed)
    overrides = Overrides(config.norm_eps, config.rope_theta, config.rope_pairing, config.rope_scaling)
    models: list[graphllm.Model] = []
    for version in range(3):
        write_llama2c(tmp_path / f"v{version}.bin", config, tensors, version)
        models.append(graphllm.load(tmp_path / f"v{version}.bin", overrides=overrides))
    v0, v1, v2 = models
    assert_model(v0, config, tensors, seed)
    ids = ids_of(config, seed)
    assert v0.logits(ids).tobytes() == v1.logits(ids).tobytes()
    assert v0.generate(ids, max_tokens=20).tokens == v1.generate(ids, max_tokens=20).tokens
    stored = {n: t if t.ndim == 1 else dequantized(t, largest_group(config.dim)) for n, t in tensors.items()}
    assert_model(v2, config, stored, seed)
    exact = reference_logits(config, tensors, ids)
    assert 1e-4 < (v2.logits(ids) - exact).std() / exact.std() < 0.1


def largest_group(dim: int) -> int:
    group = 64
    while dim % group:
        group //= 2
    return group


def dequantized(matrix: NDArray[Any], group: int) -> NDArray[Any]:
    values, scales = quantize_groups(matrix, group)
    return (values.reshape(-1, group) * scales[:, None]).reshape(matrix.shape)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ["everything", "tied", "odd_interleaved"])
def test_dtype_rounds_matrices_and_nothing_else(tmp_path: Path, name: str, dtype: Any) -> None:
    config, seed = MODELS[name], 5
    tensors = random_tensors(config, seed)
    path = tmp_path / "model"
    if config.rope_pairing == "half":
        write_huggingface(path, config, tensors)
    else:
        write_llama2c(path, config, tensors)
    plan = graphllm.compile(path, tmp_path / "p.gllm", dtype=dtype)
    assert {s.dtype for s in plan.file.weights.values() if len(s.shape) == 2} == {dtype}
    assert_model(graphllm.load(plan.path), config, rounded(tensors, dtype, matrices_only=True), seed)


def test_dtype_widens_again_a_narrow_checkpoint(tmp_path: Path) -> None:
    config, tensors = ZOO["plain"], random_tensors(ZOO["plain"], 6)
    write_huggingface(tmp_path / "model", config, tensors, "bfloat16")
    plan = graphllm.compile(tmp_path / "model", tmp_path / "p.gllm", dtype="f32")
    assert {s.dtype for s in plan.file.weights.values() if len(s.shape) == 2} == {"f32"}
    assert_model(graphllm.load(plan.path), config, rounded(tensors, "bf16"), 6)


@pytest.mark.parametrize("name", ["plain", "everything", "window_all"])
def test_f16_cache(tmp_path: Path, name: str) -> None:
    """Half the memory; keys and values rounded to 11 bits, and that is seen, but not far."""
    config, seed = MODELS[name], 7
    tensors, ids = random_tensors(config, seed), ids_of(config, seed)
    write_huggingface(tmp_path / "model", config, tensors, style="v5")
    wide, half = (graphllm.load(tmp_path / "model", kv_dtype=dtype) for dtype in ("f32", "f16"))
    reference = reference_logits(config, tensors, ids)
    close(wide.logits(ids), reference)
    close(half.logits(ids), reference, 5e-3)
    half.engine.truncate(0)
    close(np.array([np.array(half.engine.step(token)) for token in ids]), reference, 5e-3)
    assert np.abs(half.logits(ids) - reference).max() > 1e-5 * np.abs(reference).max()
    assert half.engine.device.memory.states * 2 == wide.engine.device.memory.states


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bf16 checkpoint."""
    write_huggingface(tmp_path / "model", MODELS["everything"], random_tensors(MODELS["everything"], 8), "bfloat16")
    return tmp_path / "model"


def bits(model: graphllm.Model, ids: list[int]) -> bytes:
    """Scored, prefilled and generated, bit for bit."""
    scored = model.logits(ids).tobytes()
    model.engine.truncate(0)
    return scored + model.engine.feed(ids).tobytes() + bytes(model.generate(ids, max_tokens=9).tokens)


@pytest.mark.parametrize(("context", "slots"), [(64, 0), (1000, 0), (0, 3), (41, 2), (50, 1)])
def test_loading_for_another_context_is_compiling_for_it(
    tmp_path: Path, folder: Path, context: int, slots: int
) -> None:
    said: list[str] = []
    graphllm.compile(folder, tmp_path / "as_it_is.gllm")
    plan = graphllm.compile(folder, tmp_path / "so.gllm", context=context, slots=slots or 1)
    again = graphllm.load(tmp_path / "as_it_is.gllm", context=context, slots=slots, say=said.append)
    asked = graphllm.load(plan.path)
    assert print_module(again.lowered) == print_module(asked.lowered)
    assert said[1:] == [asked.engine.device.storage]  # that its bf16 weights were expanded
    assert "lowered again" in said[0]
    assert (again.engine.context, again.engine.slots) == (context or MODELS["everything"].context, slots or 1)
    ids = ids_of(MODELS["everything"], 9)
    assert bits(again, ids) == bits(asked, ids)


def test_asking_for_what_a_plan_has_changes_nothing(tmp_path: Path, folder: Path) -> None:
    said: list[str] = []
    plan = graphllm.compile(folder, tmp_path / "p.gllm", context=50, slots=2)
    model = graphllm.load(plan.path, context=50, slots=2, say=said.append)
    assert said == [model.engine.device.storage]
    assert "expanded to f32" in said[0]
    assert print_module(model.lowered) == print_module(plan.lowered)


def test_default_context_is_the_models_own_up_to_4096(tmp_path: Path) -> None:
    for own, expected in ((37, 37), (4096, 4096), (131072, 4096)):
        config = replace(ZOO["one_layer"], context=own)
        write_huggingface(tmp_path / str(own), config, random_tensors(config, 3))
        assert graphllm.load(tmp_path / str(own)).engine.context == expected
    assert graphllm.load(tmp_path / "131072", context=5000).engine.context == 5000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["everything", "tied", "odd_sizes"])
def test_expanded_and_tiled_weights_agree(tmp_path: Path, name: str, dtype: str) -> None:
    """Sixteen bits expanded at load, or converted as they are read: the same numbers, other memory."""
    config = MODELS[name]
    tensors = random_tensors(config, 10)
    write_huggingface(tmp_path / "model", config, tensors, dtype)
    plan = graphllm.compile(tmp_path / "model", tmp_path / "p.gllm").path
    always, never = (graphllm.load(plan, expand=how) for how in ("always", "never"))
    stored = {n: t.astype(DTYPES[dtype]).astype(np.float32) for n, t in tensors.items()}
    assert_model(always, config, stored, 10)
    assert_model(never, config, stored, 10)
    assert never.engine.device.memory.weights < always.engine.device.memory.weights


@pytest.mark.parametrize("name", ["plain", "everything", "window_some"])
def test_batches_streams_and_answers_agree(tmp_path: Path, name: str) -> None:
    config = MODELS[name]
    write_huggingface(tmp_path / "model", config, random_tensors(config, 11))
    model = graphllm.load(tmp_path / "model", slots=5)
    prompts = [ids_of(config, seed)[: 3 * seed + 1] for seed in range(5)]
    alone = [model.generate(p, max_tokens=12, seed=3) for p in prompts]
    together = model.generate_batch(prompts, max_tokens=12, seed=3)
    assert [replace(c, seed=3) for c in together] == alone
    for prompt, answer in zip(prompts, alone, strict=True):
        stream = model.stream(prompt, max_tokens=12)
        assert tuple(stream.tokens()) == answer.tokens
        assert stream.progress.finish == answer.finish
