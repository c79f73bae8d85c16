"""Hugging Face folders: every family, config style, dtype and way of tying comes out as it was written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from graphllm.errors import CheckpointError
from graphllm.frontends import checkpoint as checkpoint_module
from graphllm.frontends.config import RopeScaling
from graphllm.frontends.huggingface import read_huggingface
from tests.checkpoint_writers import (
    DTYPES,
    Array,
    Style,
    huggingface_names,
    random_tensors,
    write_huggingface,
    write_safetensors,
)
from tests.shared_data import shared
from tests.small_huggingface import LLAMA, MODELS, change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole Llama, to be damaged."""
    write_huggingface(tmp_path, LLAMA, random_tensors(LLAMA, np.random.default_rng(1)))
    return tmp_path


def save(folder: Path, tensors: dict[str, Array]) -> None:
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("style", ["v4", "v5"])
@pytest.mark.parametrize("name", MODELS)
def test_every_family_comes_back_as_it_was_written(tmp_path: Path, name: str, style: Style) -> None:
    config = MODELS[name]
    rng = np.random.default_rng(len(name))
    tensors = random_tensors(config, rng)
    dtype = list(DTYPES)[len(name) % 3]
    shards = int(rng.integers(1, 4))
    write_huggingface(tmp_path, config, tensors, dtype, shards, style)
    checkpoint = read_huggingface(tmp_path)
    assert (checkpoint.format, checkpoint.config, checkpoint.notes) == ("huggingface", config, ())
    assert set(checkpoint.tensors) == set(tensors)
    assert len(checkpoint.files) == (2 if shards == 1 else 2 + shards)
    for key, tensor in tensors.items():
        assert checkpoint.tensors[key].read().tobytes() == tensor.astype(DTYPES[dtype]).tobytes()


TINY = replace(LLAMA, dim=64, head_dim=16, ffn_dim=128, vocab=256, context=256, norm_eps=1e-6)
TINY_MODELS = {
    "llama_bf16": TINY,
    "llama_bias": replace(TINY, ffn_dim=96, qkv_bias=True, o_bias=True, mlp_bias=True),
    "llama_gqa_tied_rope3": replace(
        TINY,
        head_dim=24,
        ffn_dim=160,
        vocab=320,
        context=512,
        tied=True,
        rope_theta=5e5,
        rope_scaling=RopeScaling("llama3", 8.0, 64, 1.0, 4.0),
        eos_ids=(2, 5),
    ),
    "llama_legacy_extras": replace(TINY, ffn_dim=96, tied=True),
    "llama_mha_untied": replace(TINY, kv_heads=4),
    "llama_mqa_bigeps": replace(TINY, layers=3, heads=8, kv_heads=1, head_dim=8, ffn_dim=96, norm_eps=0.01),
    "llama_odd": replace(TINY, dim=48, heads=3, kv_heads=1, ffn_dim=100, vocab=1031),
    "llama_rope_linear": replace(TINY, ffn_dim=96, rope_scaling=RopeScaling("linear", 4.0)),
    "llama_sharded": replace(TINY, dim=96, layers=3, heads=6, kv_heads=3, ffn_dim=192, vocab=512),
    "mistral_swa": replace(TINY, family="mistral", layers=3, windows=(8, 8, 8)),
    "mistral_swa_null": replace(TINY, family="mistral"),
    "qwen2_f16": replace(TINY, family="qwen2", qkv_bias=True),
    "qwen2_swa_off": replace(TINY, family="qwen2", qkv_bias=True, layers=3),
    "qwen2_swa_on": replace(TINY, family="qwen2", qkv_bias=True, layers=3, windows=(0, 8, 8)),
    "qwen2_tied": replace(TINY, family="qwen2", qkv_bias=True, tied=True, rope_theta=1e6),
    "qwen2_yarn": replace(
        TINY,
        family="qwen2",
        qkv_bias=True,
        rope_theta=1e6,
        rope_scaling=RopeScaling("yarn", 4.0, 64, attention_factor=0.1 * math.log(4) + 1),
    ),
    "qwen3": replace(TINY, family="qwen3", head_dim=32, qk_norm=True, rope_theta=1e6),
}


@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_public_models_read_as_described(name: str) -> None:
    checkpoint = read_huggingface(shared(f"tiny/{name}"))
    assert checkpoint.config == TINY_MODELS[name]
    assert checkpoint.notes == ()
    dtype = {"llama_bf16": "bf16", "qwen2_f16": "f16"}.get(name, "f32")
    for source in checkpoint.tensors.values():
        values = source.read()
        assert (source.dtype, values.shape) == (dtype, source.shape)
        assert np.isfinite(values.astype(np.float32)).all()


def test_the_story_model_has_only_a_classifier_and_its_published_values() -> None:
    checkpoint = read_huggingface(shared("real/story-hf"))
    assert checkpoint.config == replace(
        LLAMA, dim=128, heads=8, kv_heads=4, head_dim=16, ffn_dim=384, vocab=2048, context=512, norm_eps=1e-6, tied=True
    )
    assert checkpoint.tensors["tok_emb"].source == "lm_head.weight"
    probes = {
        ("tok_emb", 50): 0.14453125,
        ("l0.att_norm", 10): 0.18652344,
        ("l1.ffn_norm", 10): 0.32421875,
        ("norm", 100): 0.73046875,
        ("l0.w_down", 100): -0.0625,
        ("l0.w_up", 100): 1.46875,
        ("l1.w_gate", 100): 0.296875,
        ("l1.wq", 100): 0.032226563,
        ("l1.wk", 100): -0.21386719,
        ("l0.wv", 100): 0.041015625,
        ("l0.wo", 100): 0.01965332,
    }
    for (name, index), value in probes.items():
        assert checkpoint.tensors[name].read().reshape(-1)[index] == np.float32(value), name


@pytest.mark.parametrize("flag", [True, False, ...])
def test_three_ways_of_tying(folder: Path, flag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "COMPARED_BYTES", 1000)  # so that these are compared in blocks
    change(folder, tie_word_embeddings=flag)
    named = huggingface_names(random_tensors(LLAMA, np.random.default_rng(2)))
    embedding, classifier = named["model.embed_tokens.weight"], named["lm_head.weight"]

    def found(**vocabulary: Array) -> tuple[bool, dict[str, str]]:
        rest = {name: tensor for name, tensor in named.items() if tensor is not embedding and tensor is not classifier}
        save(folder, rest | {name.replace("__", "."): tensor for name, tensor in vocabulary.items()})
        checkpoint = read_huggingface(folder)
        sources = {
            name: checkpoint.tensors[name].source for name in ("tok_emb", "lm_head") if name in checkpoint.tensors
        }
        np.testing.assert_array_equal(checkpoint.tensors["tok_emb"].read(), next(iter(vocabulary.values())))
        return checkpoint.config.tied, sources

    only_embedding = (True, {"tok_emb": "model.embed_tokens.weight"})
    assert found(model__embed_tokens__weight=embedding) == only_embedding
    assert found(lm_head__weight=classifier) == (True, {"tok_emb": "lm_head.weight"})
    assert found(model__embed_tokens__weight=embedding, lm_head__weight=embedding.copy()) == only_embedding
    both = (False, {"tok_emb": "model.embed_tokens.weight", "lm_head": "lm_head.weight"})
    different = found(model__embed_tokens__weight=embedding, lm_head__weight=classifier)
    assert different == (only_embedding if flag is True else both)
    nearly = embedding.copy()
    nearly[-1, -1] += 1
    assert found(model__embed_tokens__weight=embedding, lm_head__weight=nearly)[0] == (flag is True)


def test_missing_and_misshaped_tensors_are_named(folder: Path) -> None:
    named = huggingface_names(random_tensors(LLAMA, np.random.default_rng(2)))
    gone = [name for name in named if "layers.1.mlp" in name] + ["model.norm.weight"]
    save(folder, {name: tensor for name, tensor in named.items() if name not in gone})
    with pytest.raises(
        CheckpointError, match=r"model.safetensors: tensors are missing: .*mlp.*, .* and 1 more; expected 21"
    ):
        read_huggingface(folder)
    save(folder, {name: tensor for name, tensor in named.items() if "embed" not in name and "lm_head" not in name})
    with pytest.raises(CheckpointError, match=r"tensors are missing: model.embed_tokens.weight; expected 20"):
        read_huggingface(folder)
    wrong = "model.layers.1.mlp.down_proj.weight"
    save(folder, named | {wrong: np.ascontiguousarray(named[wrong].T)})
    with pytest.raises(CheckpointError, match=rf"{wrong} has shape \[20, 24\]; expected \[24, 20\] by config.json"):
        read_huggingface(folder)
    save(folder, named | {wrong: named[wrong].astype(np.float64)})
    with pytest.raises(CheckpointError, match=f"{wrong} has dtype F64; expected one of F32, F16, BF16"):
        read_huggingface(folder)


def test_unused_tensors_are_told_and_rope_frequencies_are_not(folder: Path) -> None:
    named = huggingface_names(random_tensors(LLAMA, np.random.default_rng(2)))
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3)}
    save(folder, named | frequencies)
    assert read_huggingface(folder).notes == ()
    save(folder, named | frequencies | {"model.layers.2.extra": np.ones(3)})
    assert read_huggingface(folder).notes == ("tensors that the model does not use: 'model.layers.2.extra'",)


def test_a_hostile_header_costs_nothing(folder: Path) -> None:
    write_safetensors(folder / "model.safetensors", {}, length=2**60)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_huggingface(folder)
