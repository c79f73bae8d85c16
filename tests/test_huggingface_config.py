"""config.json: defaults, both spellings of RoPE, windows and special ids; wrong values are named with their key."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.errors import CheckpointError
from graphllm.frontends.config import RopeScaling
from graphllm.frontends.huggingface import read_huggingface
from graphllm.frontends.overrides import Overrides
from tests.checkpoint_writers import (
    huggingface_config,
    random_tensors,
    write_huggingface,
)
from tests.small_huggingface import LLAMA, MODELS, change


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole Llama, to be damaged."""
    write_huggingface(tmp_path, LLAMA, random_tensors(LLAMA, np.random.default_rng(1)))
    return tmp_path


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, RopeScaling("yarn", 4.0, 16, attention_factor=0.1 * math.log(4) + 1)),
        ({"attention_factor": 0.5}, RopeScaling("yarn", 4.0, 16, attention_factor=0.5)),
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, None),
        ({"mscale": 2.0}, RopeScaling("yarn", 4.0, 16, attention_factor=0.1 * math.log(4) + 1)),
        ({"factor": None}, RopeScaling("yarn", 4.0, 16, attention_factor=0.1 * math.log(4) + 1)),
        ({"original_max_position_embeddings": None}, RopeScaling("yarn", 4.0, 64, attention_factor=1.1386294361119891)),
        ({"beta_fast": 8, "truncate": False}, RopeScaling("yarn", 4.0, 16, 1, 4, 8.0, 1.0, 1.1386294361119891, False)),
    ],
)
def test_yarn_defaults(folder: Path, said: dict[str, Any], expected: RopeScaling | None) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16} | said
    if expected is None:
        ratio = (0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1)
        expected = RopeScaling("yarn", 4.0, 16, attention_factor=ratio)
    change(folder, rope_scaling=scaling)
    assert read_huggingface(folder).config.rope_scaling == expected
    change(folder, rope_scaling=..., rope_theta=..., rope_parameters=scaling | {"rope_theta": 123.0})
    config = read_huggingface(folder).config
    assert (config.rope_scaling, config.rope_theta) == (expected, 123.0)


def test_both_styles_at_once_prefer_the_newer(folder: Path) -> None:
    newer = huggingface_config(replace(LLAMA, rope_theta=77.0), style="v5")
    change(folder, rope_parameters=newer["rope_parameters"], rope_scaling={"type": "linear", "factor": 9})
    config = read_huggingface(folder).config
    assert (config.rope_theta, config.rope_scaling) == (77.0, RopeScaling())


def test_absent_keys_take_the_family_defaults(folder: Path) -> None:
    absent = ("rms_norm_eps", "rope_theta", "head_dim", "max_position_embeddings", "bos_token_id", "eos_token_id")
    change(folder, **dict.fromkeys(absent, ...), num_key_value_heads=2)
    assert read_huggingface(folder).config == replace(LLAMA, norm_eps=1e-6, context=2048)
    change(folder, **dict.fromkeys(absent), architectures=..., use_cache=True, made_up={"deep": [1]})
    assert read_huggingface(folder).config == replace(LLAMA, norm_eps=1e-6, context=2048, bos_id=None, eos_ids=())
    change(folder, architectures=["MistralForCausalLM"], sliding_window=..., max_position_embeddings=...)
    config = read_huggingface(folder).config
    assert (config.windows, config.context) == ((4096, 4096), 131072)
    change(folder, num_key_value_heads=...)
    with pytest.raises(CheckpointError, match="4 heads with 8 kv heads; expected kv heads that divide heads"):
        read_huggingface(folder)


def test_special_ids(folder: Path) -> None:
    generation = folder / "generation_config.json"
    generation.write_text(json.dumps({"bos_token_id": 3, "eos_token_id": [4, 5, 4]}))
    checkpoint = read_huggingface(folder)
    assert (checkpoint.config.bos_id, checkpoint.config.eos_ids) == (3, (4, 5))
    assert generation in checkpoint.files
    generation.write_text(json.dumps({"eos_token_id": None}))
    assert read_huggingface(folder).config == LLAMA
    generation.write_text(json.dumps({"bos_token_id": -1, "eos_token_id": [4, 999]}))
    checkpoint = read_huggingface(folder)
    assert (checkpoint.config.bos_id, checkpoint.config.eos_ids) == (None, (4,))
    assert [note.split(" of 37")[0] for note in checkpoint.notes] == [
        "eos ids [999] are outside the vocabulary",
        "bos id -1 is outside the vocabulary",
    ]
    generation.write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: not valid JSON"):
        read_huggingface(folder)


def test_overrides_win_over_the_config(folder: Path) -> None:
    checkpoint = read_huggingface(folder, Overrides(norm_eps=0.25, context=7))
    assert checkpoint.config == replace(LLAMA, norm_eps=0.25, context=7)
    assert checkpoint.notes == ("set by overrides: norm_eps=0.25 context=7",)


def test_windows_follow_layer_types_where_there_are_any(tmp_path: Path) -> None:
    config = MODELS["qwen2 windows"]
    write_huggingface(tmp_path, config, random_tensors(config, np.random.default_rng(0)))
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    change(tmp_path, layer_types=kinds)
    assert read_huggingface(tmp_path).config.windows == (9, 0, 0)
    change(tmp_path, use_sliding_window=False)
    assert read_huggingface(tmp_path).config.windows == ()
    change(tmp_path, layer_types=kinds[:2])
    with pytest.raises(CheckpointError, match="layer_types has 2 entries; expected one for each of 3 layers"):
        read_huggingface(tmp_path)
    change(tmp_path, layer_types=["chunked_attention"] * 3)
    with pytest.raises(CheckpointError, match="'chunked_attention', which is not supported; expected full_attention"):
        read_huggingface(tmp_path)


NAN, INF = float("nan"), float("inf")
NUMBERS = {
    "rms_norm_eps": [NAN, INF, 0, -1e-6, 1.0, "1e-5", True, [1]],
    "rope_theta": [NAN, INF, 0, 1, -1, 10**400, "1e4"],
}
SIZES = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
SIZES += ["head_dim", "vocab_size", "max_position_embeddings"]
WRONG = [
    *((key, value, f"{key} is .*expected a number above") for key, values in NUMBERS.items() for value in values),
    *(
        (key, value, f"{key} is .*expected a whole number")
        for key in SIZES
        for value in [0, -1, 2**31, NAN, 2.0, "8", True]
    ),
    *(
        (key, ..., f"{key} absent; expected a whole number")
        for key in ("hidden_size", "vocab_size", "num_hidden_layers")
    ),
    ("num_hidden_layers", 5000, "num_hidden_layers is 5000; expected a whole number from 1 to 4096"),
    ("num_hidden_layers", 4000, "tensors are missing: model.layers.2.input_layernorm.weight, .* and 35979 more"),
    ("num_key_value_heads", 3, "4 heads with 3 kv heads; expected kv heads that divide heads"),
    ("head_dim", 5, "head size is 5; expected an even one"),
    ("head_dim", 8, r"q_proj.weight has shape \[24, 24\]; expected \[32, 24\] by config.json"),
    ("vocab_size", 38, r"embed_tokens.weight has shape \[37, 24\]; expected \[38, 24\]"),
    ("hidden_size", 2**31 - 1, r"has shape \[37, 24\]; expected \[37, 2147483647\]"),
    ("hidden_act", "gelu", "hidden_act 'gelu' is not supported; expected one of silu"),
    ("hidden_act", 3, "hidden_act is 3; expected one of silu"),
    ("architectures", ["GPT2LMHeadModel"], "architecture 'GPT2LMHeadModel' is not supported; expected one of Llama"),
    ("architectures", ["OlmoeForCausalLM"], "'OlmoeForCausalLM' .a mixture of experts. is not supported"),
    ("architectures", "LlamaForCausalLM", "architectures is .*; expected a list of strings"),
    ("quantization_config", {"quant_method": "gptq"}, "quantized weights .gptq. are not supported"),
    ("partial_rotary_factor", 0.5, "partial_rotary_factor 0.5 is not supported; expected 1"),
    ("tie_word_embeddings", "yes", "tie_word_embeddings is 'yes'; expected true or false"),
    ("eos_token_id", "2", "eos_token_id is '2'; expected a token id or a list"),
    ("eos_token_id", [2, 3.5], "eos_token_id is .*; expected a token id or a list"),
    ("eos_token_id", NAN, "eos_token_id is nan; expected a token id or a list"),
    ("bos_token_id", True, "bos_token_id is True; expected a whole number"),
    ("rope_scaling", [4], "rope_scaling is .4.; expected an object"),
    (
        "rope_scaling",
        {"type": "dynamic", "factor": 2},
        "type 'dynamic' is not supported; expected one of default, linear",
    ),
    ("rope_scaling", {"rope_type": "longrope"}, "rope_type 'longrope' is not supported; expected one of default"),
    ("rope_scaling", {"factor": 2}, "rope_scaling: rope_type absent; expected one of default, linear"),
    ("rope_scaling", {"type": "linear"}, "rope_scaling: factor absent; expected a number above 0"),
    ("rope_scaling", {"type": "linear", "factor": NAN}, "rope_scaling: factor is nan; expected a number above 0"),
    ("rope_scaling", {"type": "llama3", "factor": 8}, "original_max_position_embeddings absent; expected"),
    ("rope_scaling", {"type": "yarn", "factor": 2, "beta_fast": 1}, "beta_fast is 1; expected more than beta_slow, 1"),
    ("rope_parameters", {"full_attention": {}}, "a RoPE for each kind of layer is not supported"),
]


@pytest.mark.parametrize(("key", "value", "message"), WRONG)
def test_wrong_configs(folder: Path, key: str, value: Any, message: str) -> None:
    change(folder, **{key: value})
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{message}[^\n]*$"):
        read_huggingface(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "holds a JSON list; expected an object"),
        (b"", "an empty file"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 10**6, "nested too deeply"),
        (b'{"a":' + b"1" * 5000 + b"}", "not valid"),
        (b"{}", "architectures absent; expected one of Llama"),
    ],
)
def test_broken_config_files(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*config.json: [^\n]*{message}[^\n]*$"):
        read_huggingface(folder)
