"""GGUF files: the public goldens, models and tokenizers as other formats have them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import graphllm
from graphllm.errors import GraphLLMError
from graphllm.frontends.config import RopeScaling
from graphllm.frontends.open import open_checkpoint
from tests.checkpoint_writers import random_tensors, write_huggingface
from tests.gguf_models import CONFIG, TOKENIZER, gguf_names, metadata
from tests.gguf_writer import q8_0, write_gguf
from tests.shared_data import shared

MODELS = {
    "llama": CONFIG,
    "tied": replace(CONFIG, tied=True),
    "wide heads": replace(CONFIG, head_dim=12),
    "qwen2": replace(CONFIG, family="qwen2", qkv_bias=True, rope_pairing="half", rope_theta=1e6, bos_id=None),
    "qwen3": replace(CONFIG, family="qwen3", qk_norm=True, head_dim=16, rope_pairing="half"),
    "all biases": replace(CONFIG, qkv_bias=True, o_bias=True, mlp_bias=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_float_models(tmp_path: Path, name: str) -> None:
    config = MODELS[name]
    tensors = random_tensors(config, np.random.default_rng(0))
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        stored = {n: t if t.ndim == 1 else t.astype(dtype) for n, t in tensors.items()}
        write_gguf(tmp_path / "m", metadata(config), gguf_names(stored))
        checkpoint = open_checkpoint(tmp_path / "m")
        assert (checkpoint.format, checkpoint.group, checkpoint.tokenizer) == ("gguf", 0, None)
        rounded = replace(config, norm_eps=checkpoint.config.norm_eps)
        assert checkpoint.config == rounded
        assert abs(config.norm_eps - rounded.norm_eps) < 1e-12
        assert set(checkpoint.tensors) == set(tensors)
        for n, tensor in stored.items():
            np.testing.assert_array_equal(checkpoint.tensors[n].read(), tensor, n)
            np.testing.assert_array_equal(checkpoint.tensors[n].rows(1, 3), tensor[1:3], n)


def test_q8_0_stays_int8_groups_of_32(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, np.random.default_rng(0))
    stored = {n: q8_0(t) if t.ndim == 2 else t for n, t in tensors.items()}
    write_gguf(tmp_path / "m", metadata(CONFIG), gguf_names(stored))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.group == 32
    for name, tensor in tensors.items():
        source = checkpoint.tensors[name]
        if tensor.ndim == 1:
            np.testing.assert_array_equal(source.read(), tensor)
            continue
        raw = np.frombuffer(stored[name][2], np.uint8).reshape(-1, 34)
        scales = checkpoint.tensors[f"{name}.scale"]
        assert (source.dtype, scales.dtype) == ("i8", "f16")
        np.testing.assert_array_equal(source.read().reshape(-1, 32), raw[:, 2:].copy().view(np.int8))
        np.testing.assert_array_equal(scales.read().reshape(-1, 1), raw[:, :2].copy().view(np.float16))
        np.testing.assert_array_equal(source.rows(2, 5), source.read()[2:5])
        np.testing.assert_array_equal(scales.rows(2, 5), scales.read()[2:5])
    module = graphllm.compile(tmp_path / "m", tmp_path / "p.gllm", context=8).module
    assert module.weights["l0.wo"].type.dtype == "i8"  # not rounded again
    assert module.weights["l0.wo.scale"].type.dtype == "f16"


GOLDENS = ["qwen2_tied.f32", "stories260K.f32", "story.f16", "story.q8_0", "story.q4_0"]


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name: str) -> None:
    golden = json.loads(shared("gguf/golden.json").read_text())
    assert set(golden) == {f"{each}.gguf" for each in GOLDENS}
    facts = golden[f"{name}.gguf"]
    model = graphllm.load(shared(f"gguf/{name}.gguf"))
    expected = np.load(shared(f"gguf/{name}.logits.npy"))
    bound = max(2e-4, 10 * facts["max_abs_err_hf_f32_vs_numpy_f64"])
    assert np.abs(model.logits(facts["ids"]) - expected).max() <= bound
    answer = model.generate(facts["greedy_prompt_ids"], max_tokens=48, ignore_eos=True)
    assert list(answer.tokens) == facts["greedy_ids"]


def test_the_tokenizers_in_the_goldens() -> None:
    for name, cases in (
        ("stories260K.f32", "tokenizers/tok512/cases.jsonl"),
        ("story.f16", "tokenizers/story_cases.jsonl"),
    ):
        model = graphllm.load(shared(f"gguf/{name}.gguf"))
        assert model.tokenizer is not None
        lines = shared(cases).read_text("utf-8").splitlines()
        good = 0
        for line in lines:
            case = json.loads(line)
            if any(text in case["text"] for text in ("<s>", "</s>", "<unk>", "<|")):
                continue
            good += 1
            assert model.tokenizer.encode(case["text"], bos=case["add_special_tokens"]) == case["ids"], case["text"]
        assert good > 10


def test_llama3_scaling_is_recognised_by_its_factors(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)
    config = replace(CONFIG, rope_theta=5e5, head_dim=16, rope_scaling=scaling, context=128)
    tensors = random_tensors(config, np.random.default_rng(0))
    i = np.arange(8)
    plain = 5e5 ** (-i / 8)
    wave = 2 * np.pi / plain
    smooth = (8192 / wave - 1) / 3
    bent = np.where(wave < 2048, plain, np.where(wave > 8192, plain / 8, (1 - smooth) * plain / 8 + smooth * plain))
    factors = (plain / bent).astype(np.float32)
    assert factors[0] == 1
    assert factors[-1] == 8
    write_gguf(tmp_path / "m", metadata(config), gguf_names(tensors) | {"rope_freqs.weight": factors})
    assert open_checkpoint(tmp_path / "m").config.rope_scaling == scaling
    for wrong in (factors[::-1].copy(), factors * 0, np.full(8, np.nan, np.float32), factors[:4]):
        write_gguf(tmp_path / "m", metadata(config), gguf_names(tensors) | {"rope_freqs.weight": wrong})
        with pytest.raises(GraphLLMError, match=r"rope_freqs.weight .*expected"):
            open_checkpoint(tmp_path / "m")


def test_other_scalings_and_windows(tmp_path: Path) -> None:
    tensors = gguf_names(random_tensors(CONFIG, np.random.default_rng(0)))
    scaled = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "m", metadata(CONFIG, **scaled), tensors)
    assert open_checkpoint(tmp_path / "m").config.rope_scaling == RopeScaling("linear", 4.0)
    scaled = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 16} | {
        "llama.rope.scaling.factor": 4.0,
        "llama.attention.sliding_window": 7,
        "llama.attention.head_count": [4, 4],
    }
    write_gguf(tmp_path / "m", metadata(CONFIG, **scaled), tensors)
    config = open_checkpoint(tmp_path / "m").config
    assert (config.rope_scaling.kind, config.rope_scaling.original_context, config.windows) == ("yarn", 16, (7, 7))
    assert config.rope_scaling.attention_factor == pytest.approx(0.1 * np.log(4) + 1)


def test_the_same_model_as_hugging_face_has_the_same_logits(tmp_path: Path) -> None:
    config = replace(MODELS["qwen2"], bos_id=1)
    tensors = random_tensors(config, np.random.default_rng(0))
    write_gguf(tmp_path / "m.gguf", metadata(config), gguf_names(tensors))
    write_huggingface(tmp_path / "hf", config, tensors)
    ids = list(range(3, 30))
    one, other = (graphllm.load(tmp_path / name).logits(ids) for name in ("m.gguf", "hf"))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_tokenizer_and_template_come_along(tmp_path: Path) -> None:
    config = replace(CONFIG, vocab=264)
    said = metadata(config, **TOKENIZER) | {
        "tokenizer.chat_template": "{{ bos_token }}",
        "tokenizer.chat_template.tool": "t",
    }
    write_gguf(tmp_path / "m.gguf", said, gguf_names(random_tensors(config, np.random.default_rng(0))))
    graphllm.compile(tmp_path / "m.gguf", tmp_path / "p.gllm", context=8)
    model = graphllm.load(tmp_path / "p.gllm")
    assert model.tokenizer is not None
    assert model.encode("a ab") == [1, 262, 262, 261]
    assert model.tokenizer.decode([1, 262, 262, 261]) == "a ab"
    assert model.encode("é")[1:] == [259, 3 + 0xC3, 3 + 0xA9]
    data = model.plan.file.tokenizer
    assert data is not None
    assert (data.kind, data.chat_template, dict(data.other_templates)) == ("gguf", "{{ bos_token }}", {"tool": "t"})
    assert data.special_tokens["bos_token"] == "<s>"
    # a GGUF file is a tokenizer for another checkpoint too
    write_huggingface(
        tmp_path / "hf", replace(config, rope_pairing="half"), random_tensors(config, np.random.default_rng(0))
    )
    assert graphllm.load(tmp_path / "hf", tokenizer=tmp_path / "m.gguf").encode("a ab") == [1, 262, 262, 261]
