"""A small model and its vocabulary, said as GGUF says it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig
from graphllm.frontends.gguf import LAYER_NAMES, NAMES
from tests.checkpoint_writers import random_tensors

CONFIG = ModelConfig("llama", 32, 2, 4, 2, 8, 64, 40, 64, 1e-5, 1e4, "interleaved", bos_id=1, eos_ids=(2,), tied=False)
VOCABULARY = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab"]
TOKENIZER = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": VOCABULARY,
    "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(5)],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 5],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def metadata(config: ModelConfig, **more: Any) -> dict[str, Any]:
    a = {"qwen3_moe": "qwen3moe"}.get(config.family, config.family)
    said = {
        "general.architecture": a,
        f"{a}.context_length": config.context,
        f"{a}.embedding_length": config.dim,
        f"{a}.block_count": config.layers,
        f"{a}.feed_forward_length": config.ffn_dim,
        f"{a}.attention.head_count": config.heads,
        f"{a}.attention.head_count_kv": config.kv_heads,
        f"{a}.attention.key_length": config.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": config.norm_eps,
        f"{a}.rope.freq_base": config.rope_theta,
        "tokenizer.ggml.model": "no_vocab",
    }
    if config.bos_id is not None:
        said["tokenizer.ggml.bos_token_id"] = config.bos_id
    if config.eos_ids:
        said["tokenizer.ggml.eos_token_id"] = config.eos_ids[0]
    return said | more


def gguf_names(tensors: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        out[f"blk.{layer[1:]}.{LAYER_NAMES[part]}" if layer else NAMES[name]] = tensor
    return out


SAID = metadata(CONFIG)
TENSORS: dict[str, NDArray[Any]] = gguf_names(random_tensors(CONFIG, np.random.default_rng(0)))
