"""The metadata of a GGUF file, read into a ModelConfig."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig, RopePairing, RopeScaling
from graphllm.frontends.gguf_blocks import F32
from graphllm.frontends.gguf_file import GgufFile
from graphllm.frontends.json_fields import ABSENT, MAX_INT, JsonFields
from graphllm.frontends.sizes import MAX_LAYERS, check_sizes
from graphllm.ir.ops import rope_frequencies

# How rows of q and k are ordered: Llama's are put in pairs by the converter, Qwen's stay in halves.
ARCHITECTURES: dict[str, RopePairing] = {
    "llama": "interleaved",
    "qwen2": "half",
    "qwen3": "half",
    "qwen3moe": "half",
}
LLAMA3_CONTEXT = 8192  # that Llama 3 was first trained on; the file does not say it
ROPE_KINDS = ("none", "linear", "yarn")


def gguf_config(file: GgufFile) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config, without special ids, and notes."""
    where = f"{file.file.path}"
    said = JsonFields(where, file.metadata)
    architecture = said.text("general.architecture", expected="an architecture's name")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{where}: architecture {architecture[:80]!r} is not supported; expected one of {', '.join(ARCHITECTURES)}"
        )
    if said.integer("split.count", 1, least=0) > 1:
        raise CheckpointError(
            f"{where}: one of {file.metadata['split.count']} parts of a model; expected a whole one, "
            f"as llama-gguf-split --merge makes it"
        )
    ours = _Fields(where, architecture, file.metadata)
    dim, heads = ours.integer("embedding_length"), ours.integer("attention.head_count")
    head_dim = ours.integer("attention.key_length", max(1, dim // heads))
    if ours.integer("attention.value_length", head_dim) != head_dim:
        raise CheckpointError(f"{where}: heads of keys and values differ in size; expected one size")
    if ours.integer("rope.dimension_count", head_dim) != head_dim:
        raise CheckpointError(f"{where}: RoPE over a part of each head is not supported; expected all {head_dim}")
    vocab = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
    layers, experts = ours.integer("block_count", most=MAX_LAYERS), ours.integer("expert_count", 0, least=0)
    context = ours.integer("context_length")
    theta = ours.number("rope.freq_base", 1e4, above=1)
    scaling, notes = _scaling(file, ours, head_dim, theta, context)
    window = ours.integer("attention.sliding_window", 0, least=0, most=MAX_INT)
    config = ModelConfig(
        family={"qwen3moe": "qwen3_moe"}.get(architecture, architecture),
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=ours.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_dim=ours.integer("expert_feed_forward_length" if architecture == "qwen3moe" else "feed_forward_length"),
        vocab=max(1, vocab),
        context=context,
        norm_eps=ours.number("attention.layer_norm_rms_epsilon", 1e-5, below=1),
        rope_theta=theta,
        rope_pairing=ARCHITECTURES[architecture],
        rope_scaling=scaling,
        windows=(window,) * layers if window else (),
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        o_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_gate.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        tied="output.weight" not in file.tensors,
        experts=experts,
        experts_used=ours.integer("expert_used_count", 0, least=0) if experts else 0,
    )
    check_sizes(config, where)
    return config, notes


class _Fields(JsonFields):
    """Fields under the architecture's name. A list of one value for each layer counts as the value, when all agree."""

    def __init__(self, where: str, architecture: str, metadata: dict[str, Any]) -> None:
        prefix = f"{architecture}."
        found = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
        for key, value in found.items():
            if isinstance(value, np.ndarray):
                same = value.size > 0 and bool((value == value[0]).all())
                found[key] = value[0].item() if same else f"of {value.size} values that differ"
        super().__init__(f"{where}: {architecture}", found)


def _scaling(
    file: GgufFile, said: JsonFields, head_dim: int, theta: float, context: int
) -> tuple[RopeScaling, tuple[str, ...]]:
    """RoPE scaling: stated, or given as a factor for each pair, as converters write Llama 3's."""
    if "rope_freqs.weight" in file.tensors:
        return _from_factors(file, head_dim, theta), ()
    kind = said.choice("rope.scaling.type", "none", ROPE_KINDS)
    factor = said.number("rope.scaling.factor", ABSENT if kind != "none" else 1.0)
    if kind == "linear":
        return RopeScaling("linear", factor), ()
    if kind == "yarn":
        original = said.integer("rope.scaling.original_context_length", context)
        temperature = 1.0 if factor <= 1 else 0.1 * math.log(factor) + 1.0
        return RopeScaling(
            "yarn",
            factor,
            original,
            beta_fast=said.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=said.number("rope.scaling.yarn_beta_slow", 1.0),
            attention_factor=temperature * said.number("rope.scaling.attn_factor", 1.0),
        ), ()
    return RopeScaling(), ()


def _from_factors(file: GgufFile, head_dim: int, theta: float) -> RopeScaling:
    """Llama 3's scaling, recognised by the factors that it makes; other factors are refused."""
    entry = file.tensors["rope_freqs.weight"]
    pairs = head_dim // 2
    where = f"{file.file.path}: rope_freqs.weight"
    if entry.type != F32 or entry.shape != (pairs,):
        raise CheckpointError(f"{where} is {entry.type_name} {list(entry.shape)}; expected F32 [{pairs}]")
    factors = file.file.view(entry.begin, np.dtype("<f4"), (pairs,)).astype(np.float64)
    if not np.isfinite(factors).all() or factors.min() <= 0:
        raise CheckpointError(f"{where} holds {factors.min():g} to {factors.max():g}; expected positive numbers")
    if (factors == 1).all():
        return RopeScaling()
    plain = np.asarray(rope_frequencies.reference(kind="default", pairs=pairs, theta=theta), np.float64)
    scaling = RopeScaling("llama3", float(factors.max()), LLAMA3_CONTEXT, 1.0, 4.0)
    bent = np.asarray(
        rope_frequencies.reference(
            kind="llama3",
            pairs=pairs,
            theta=theta,
            factor=scaling.factor,
            original_context=scaling.original_context,
            low_freq_factor=scaling.low_freq_factor,
            high_freq_factor=scaling.high_freq_factor,
        ),
        np.float64,
    )
    if not np.allclose(plain / bent, factors, rtol=1e-4):
        raise CheckpointError(
            f"{where} holds factors from {factors.min():g} to {factors.max():g}; expected those of Llama 3's scaling "
            f"by {factors.max():g}"
        )
    return scaling
