"""A small Hugging Face model for every family and flag, and a way to damage its config."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphllm.frontends.config import ModelConfig, RopeScaling

LLAMA = ModelConfig(
    family="llama",
    dim=24,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=6,
    ffn_dim=20,
    vocab=37,
    context=64,
    norm_eps=1e-5,
    rope_theta=1e4,
    rope_pairing="half",
    bos_id=1,
    eos_ids=(2,),
)
YARN = RopeScaling("yarn", 4.0, 16, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25, truncate=False)
MODELS = {
    "llama": LLAMA,
    "llama head_dim tied": replace(LLAMA, head_dim=10, tied=True, eos_ids=(2, 5, 7)),
    "llama biases": replace(LLAMA, qkv_bias=True, o_bias=True, mlp_bias=True),
    "llama linear": replace(LLAMA, rope_scaling=RopeScaling("linear", 4.0)),
    "llama llama3": replace(LLAMA, rope_theta=5e5, rope_scaling=RopeScaling("llama3", 8.0, 16, 1.0, 4.0)),
    "mistral": replace(LLAMA, family="mistral", windows=(8, 8)),
    "mistral full": replace(LLAMA, family="mistral"),
    "qwen2": replace(LLAMA, family="qwen2", qkv_bias=True, rope_scaling=YARN, bos_id=None),
    "qwen2 windows": replace(LLAMA, family="qwen2", qkv_bias=True, layers=3, windows=(0, 0, 9)),
    "qwen3": replace(LLAMA, family="qwen3", qk_norm=True, head_dim=8, eos_ids=()),
    "qwen3 biases": replace(LLAMA, family="qwen3", qk_norm=True, qkv_bias=True, o_bias=True, windows=(5, 5)),
}


def change(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Set keys of a JSON file in a folder; ``...`` removes one."""
    path = folder / name
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not ...}))
