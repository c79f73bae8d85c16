"""Small, separate readers of the golden checkpoints, so that the oracle is proved without the product's own readers.

They take the files for good: a mistake in a golden file is a KeyError here. Names become the canonical ones.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig, RopeScaling

Model = tuple[ModelConfig, dict[str, NDArray[Any]]]

# Every checkpoint of tiny/ but qwen3_moe, which is not dense (see test_experts).
DENSE_TINY = (
    "llama_bf16",
    "llama_bias",
    "llama_gqa_tied_rope3",
    "llama_legacy_extras",
    "llama_mha_untied",
    "llama_mqa_bigeps",
    "llama_odd",
    "llama_rope_linear",
    "llama_sharded",
    "mistral_swa",
    "mistral_swa_null",
    "qwen2_f16",
    "qwen2_swa_off",
    "qwen2_swa_on",
    "qwen2_tied",
    "qwen2_yarn",
    "qwen3",
)

HF_TO_CANONICAL = {
    "input_layernorm.weight": "att_norm",
    "self_attn.q_proj.weight": "wq",
    "self_attn.k_proj.weight": "wk",
    "self_attn.v_proj.weight": "wv",
    "self_attn.o_proj.weight": "wo",
    "self_attn.q_proj.bias": "bq",
    "self_attn.k_proj.bias": "bk",
    "self_attn.v_proj.bias": "bv",
    "self_attn.o_proj.bias": "bo",
    "self_attn.q_norm.weight": "q_norm",
    "self_attn.k_norm.weight": "k_norm",
    "post_attention_layernorm.weight": "ffn_norm",
    "mlp.gate_proj.weight": "w_gate",
    "mlp.up_proj.weight": "w_up",
    "mlp.down_proj.weight": "w_down",
    "mlp.gate_proj.bias": "b_gate",
    "mlp.up_proj.bias": "b_up",
    "mlp.down_proj.bias": "b_down",
}


def read_hf(folder: Path) -> Model:
    """A Hugging Face folder: config and tensors in their stored dtype."""
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored: dict[str, NDArray[Any]] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        stored.update(read_safetensors(shard))

    tensors: dict[str, NDArray[Any]] = {"norm": stored.pop("model.norm.weight")}
    head = stored.pop("lm_head.weight", None)
    embedding = stored.pop("model.embed_tokens.weight", head)
    assert embedding is not None
    tensors["tok_emb"] = embedding
    if head is not None and not raw["tie_word_embeddings"]:
        tensors["lm_head"] = head
    for name, tensor in stored.items():
        layer, rest = name.removeprefix("model.layers.").split(".", 1)
        if rest != "self_attn.rotary_emb.inv_freq":  # old files store what the config says anyway
            tensors[f"l{layer}.{HF_TO_CANONICAL[rest]}"] = tensor
    return hf_config(raw), tensors


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a file. By hand, because the library's NumPy side does not know bfloat16."""
    dtypes = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    tensors: dict[str, NDArray[Any]] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(content[start + begin : start + end], dtypes[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def hf_config(raw: dict[str, Any]) -> ModelConfig:
    """A config.json of either style."""
    family, heads, layers = raw["model_type"], raw["num_attention_heads"], raw["num_hidden_layers"]
    rope: dict[str, Any] = raw.get("rope_parameters") or {
        "rope_theta": raw["rope_theta"],
        **(raw["rope_scaling"] or {}),
    }
    eos: int | list[int] = raw["eos_token_id"]
    return ModelConfig(
        family=family,
        dim=raw["hidden_size"],
        layers=layers,
        heads=heads,
        kv_heads=raw["num_key_value_heads"],
        head_dim=raw.get("head_dim", raw["hidden_size"] // heads),
        ffn_dim=raw["intermediate_size"],
        vocab=raw["vocab_size"],
        context=raw["max_position_embeddings"],
        norm_eps=raw["rms_norm_eps"],
        rope_theta=rope["rope_theta"],
        rope_pairing="half",
        rope_scaling=hf_rope_scaling(rope),
        windows=hf_windows(raw, layers),
        qkv_bias=family == "qwen2" or raw.get("attention_bias", False),
        o_bias=raw.get("attention_bias", False),
        mlp_bias=raw.get("mlp_bias", False),
        qk_norm=family == "qwen3",
        tied=raw["tie_word_embeddings"],
        bos_id=raw["bos_token_id"],
        eos_ids=tuple(eos) if isinstance(eos, list) else (eos,),
    )


def hf_windows(raw: dict[str, Any], layers: int) -> tuple[int, ...]:
    """Mistral slides on every layer; Qwen only where asked, and from max_window_layers on."""
    window = raw.get("sliding_window")
    if window is None or not raw.get("use_sliding_window", raw["model_type"] == "mistral"):
        return ()
    first = 0 if raw["model_type"] == "mistral" else raw["max_window_layers"]
    return tuple(window if layer >= first else 0 for layer in range(layers))


def hf_rope_scaling(rope: dict[str, Any]) -> RopeScaling:
    kind = rope.get("rope_type", "default")
    factor = rope.get("factor", 1.0)
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_context=rope.get("original_max_position_embeddings", 0),
        low_freq_factor=rope.get("low_freq_factor", 1.0),
        high_freq_factor=rope.get("high_freq_factor", 4.0),
        attention_factor=0.1 * math.log(factor) + 1.0 if kind == "yarn" else 1.0,
    )


def read_v0(path: Path) -> Model:
    """A llama2.c v0 file: seven integers, then f32 matrices of all layers back to back."""
    header = np.fromfile(path, dtype="<i4", count=7)
    dim, ffn_dim, layers, heads, kv_heads, signed_vocab, context = (int(value) for value in header)
    vocab, tied, size = abs(signed_vocab), signed_vocab > 0, dim // heads
    values = np.fromfile(path, dtype="<f4", offset=28)
    taken = 0

    def take(*shape: int) -> NDArray[Any]:
        nonlocal taken
        block = values[taken : taken + math.prod(shape)].reshape(shape)
        taken += math.prod(shape)
        return block

    tensors: dict[str, NDArray[Any]] = {"tok_emb": take(vocab, dim)}
    kv_dim = kv_heads * size
    per_layer: list[tuple[str, tuple[int, ...]]] = [
        ("att_norm", (dim,)),
        ("wq", (dim, dim)),
        ("wk", (kv_dim, dim)),
        ("wv", (kv_dim, dim)),
        ("wo", (dim, dim)),
        ("ffn_norm", (dim,)),
        ("w_gate", (ffn_dim, dim)),
        ("w_down", (dim, ffn_dim)),
        ("w_up", (ffn_dim, dim)),
    ]
    for name, shape in per_layer:
        for layer, block in enumerate(take(layers, *shape)):
            tensors[f"l{layer}.{name}"] = block
    tensors["norm"] = take(dim)
    take(context, size)  # cos and sin tables, which every reader recomputes
    if not tied:
        tensors["lm_head"] = take(vocab, dim)
    assert taken == len(values)

    config = ModelConfig(
        family="llama",
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size,
        ffn_dim=ffn_dim,
        vocab=vocab,
        context=context,
        norm_eps=1e-5,
        rope_theta=10000.0,
        rope_pairing="interleaved",
        tied=tied,
        bos_id=1,
    )
    return config, tensors
