"""Odd little models: every flag and awkward size of the Llama shape, for laws that must hold on all of them.

Sizes are small enough for whole-model tests and share few factors, so that a swapped dimension cannot go unseen.
``random_tensors`` gives any of them weights under the canonical names.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig, RopeScaling

BASE = ModelConfig(
    family="llama",
    dim=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn_dim=44,
    vocab=67,
    context=64,
    norm_eps=1e-5,
    rope_theta=10000.0,
    rope_pairing="half",
    bos_id=1,
    eos_ids=(2,),
)

# The trained context of the scaled ones is short, so that a 40-token prompt reaches the bent positions.
LINEAR = RopeScaling("linear", factor=4.0)
LLAMA3 = RopeScaling("llama3", factor=8.0, original_context=16, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", factor=4.0, original_context=16, beta_fast=8.0, attention_factor=1.1386294361119891)

ZOO: dict[str, ModelConfig] = {
    "plain": BASE,
    "interleaved": replace(BASE, rope_pairing="interleaved"),
    "one_layer": replace(BASE, layers=1),
    "odd_sizes": replace(BASE, dim=48, heads=3, kv_heads=1, head_dim=16, ffn_dim=100, vocab=1031),
    "odd_interleaved": replace(
        BASE, dim=42, heads=3, kv_heads=3, head_dim=14, ffn_dim=71, vocab=131, rope_pairing="interleaved"
    ),
    "mha": replace(BASE, kv_heads=4),
    "mqa": replace(BASE, heads=8, kv_heads=1, head_dim=4, layers=3, norm_eps=1e-2),
    "wide_heads": replace(BASE, heads=3, kv_heads=1, head_dim=24, dim=40),  # H*d > D
    "narrow_heads": replace(BASE, heads=6, kv_heads=2, head_dim=2, dim=38, rope_pairing="interleaved"),  # H*d < D
    "one_head": replace(BASE, heads=1, kv_heads=1, head_dim=10, dim=26),
    "tied": replace(BASE, tied=True),
    "qkv_bias": replace(BASE, family="qwen2", qkv_bias=True, tied=True, rope_theta=1e6, norm_eps=1e-6),
    "all_biases": replace(BASE, qkv_bias=True, o_bias=True, mlp_bias=True),
    "biases_interleaved": replace(BASE, qkv_bias=True, o_bias=True, mlp_bias=True, rope_pairing="interleaved"),
    "qk_norm": replace(BASE, family="qwen3", qk_norm=True, head_dim=12, rope_theta=1e6),
    "qk_norm_bias_interleaved": replace(
        BASE, qk_norm=True, qkv_bias=True, kv_heads=1, head_dim=12, rope_pairing="interleaved", tied=True
    ),
    "window_all": replace(BASE, family="mistral", layers=3, windows=(8, 8, 8)),
    "window_some": replace(BASE, family="qwen2", layers=3, windows=(0, 5, 5), qkv_bias=True),
    "window_mixed": replace(BASE, layers=3, windows=(1, 0, 7), rope_pairing="interleaved"),
    "rope_linear": replace(BASE, rope_scaling=LINEAR),
    "rope_linear_interleaved": replace(BASE, rope_scaling=LINEAR, rope_pairing="interleaved"),
    "rope_llama3": replace(BASE, rope_scaling=LLAMA3, head_dim=24, rope_theta=500000.0, tied=True, eos_ids=(2, 5)),
    "rope_yarn": replace(BASE, family="qwen2", rope_scaling=YARN, head_dim=16, qkv_bias=True, rope_theta=1e6),
    "rope_yarn_smooth": replace(BASE, rope_scaling=replace(YARN, truncate=False), head_dim=16, rope_theta=1e4),
    "everything": ModelConfig(
        family="qwen3",
        dim=36,
        layers=3,
        heads=6,
        kv_heads=2,
        head_dim=10,
        ffn_dim=53,
        vocab=101,
        context=96,
        norm_eps=1e-6,
        rope_theta=50000.0,
        rope_pairing="half",
        rope_scaling=YARN,
        windows=(0, 6, 11),
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        qk_norm=True,
        bos_id=None,
        eos_ids=(3, 4, 9),
    ),
}


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name to shape of every tensor the config calls for."""
    dim, ffn = config.dim, config.ffn_dim
    q_dim, kv_dim = config.heads * config.head_dim, config.kv_heads * config.head_dim
    block: dict[str, tuple[int, ...]] = {
        "att_norm": (dim,),
        "wq": (q_dim, dim),
        "wk": (kv_dim, dim),
        "wv": (kv_dim, dim),
        "wo": (dim, q_dim),
        "ffn_norm": (dim,),
        "w_gate": (ffn, dim),
        "w_up": (ffn, dim),
        "w_down": (dim, ffn),
    }
    if config.qkv_bias:
        block |= {"bq": (q_dim,), "bk": (kv_dim,), "bv": (kv_dim,)}
    if config.o_bias:
        block |= {"bo": (dim,)}
    if config.mlp_bias:
        block |= {"b_gate": (ffn,), "b_up": (ffn,), "b_down": (dim,)}
    if config.qk_norm:
        block |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}

    shapes: dict[str, tuple[int, ...]] = {"tok_emb": (config.vocab, dim), "norm": (dim,)}
    if not config.tied:
        shapes["lm_head"] = (config.vocab, dim)
    for layer in range(config.layers):
        shapes |= {f"l{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def random_tensors(config: ModelConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """f32 weights with every norm and bias away from 1 and 0, and queries sharp enough that positions matter."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape)
        kind = name.rpartition(".")[2]
        if kind.endswith("norm"):
            values = 1.0 + 0.25 * values
        elif kind.startswith("b"):
            values = 0.3 * values
        elif kind in ("wq", "wk"):
            values = values * (2.0 / np.sqrt(config.dim))
        elif kind != "tok_emb":
            values = values * (1.5 / np.sqrt(shape[-1]))
        tensors[name] = values.astype(np.float32)
    return tensors
