"""A Hugging Face folder: config.json and weights, in one file or in shards named by an index."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shorten

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint, TensorSource, same_bytes
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.generation_config import read_sampling
from graphllm.frontends.huggingface_config import CONFIG_FILES, read_config
from graphllm.frontends.joined import stacked
from graphllm.frontends.overrides import NO_OVERRIDES, Overrides
from graphllm.frontends.safetensors_shards import Weights, read_weights
from graphllm.frontends.sizes import tensor_shapes

EMBEDDING, CLASSIFIER = "model.embed_tokens.weight", "lm_head.weight"
MODEL_NAMES = {"tok_emb": EMBEDDING, "norm": "model.norm.weight", "lm_head": CLASSIFIER}
LAYER_NAMES = {
    "att_norm": "input_layernorm.weight",
    "wq": "self_attn.q_proj.weight",
    "wk": "self_attn.k_proj.weight",
    "wv": "self_attn.v_proj.weight",
    "wo": "self_attn.o_proj.weight",
    "bq": "self_attn.q_proj.bias",
    "bk": "self_attn.k_proj.bias",
    "bv": "self_attn.v_proj.bias",
    "bo": "self_attn.o_proj.bias",
    "q_norm": "self_attn.q_norm.weight",
    "k_norm": "self_attn.k_norm.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "w_gate": "mlp.gate_proj.weight",
    "w_up": "mlp.up_proj.weight",
    "w_down": "mlp.down_proj.weight",
    "b_gate": "mlp.gate_proj.bias",
    "b_up": "mlp.up_proj.bias",
    "b_down": "mlp.down_proj.bias",
}


@dataclass(frozen=True, slots=True)
class MixtureNames:
    """How a family calls its router and its experts' matrices."""

    router: str
    experts: dict[str, str]


MIXTURES = {
    "qwen3_moe": MixtureNames(
        "mlp.gate.weight",
        {
            "x_gate": "mlp.experts.{}.gate_proj.weight",
            "x_up": "mlp.experts.{}.up_proj.weight",
            "x_down": "mlp.experts.{}.down_proj.weight",
        },
    ),
    "mixtral": MixtureNames(
        "block_sparse_moe.gate.weight",
        {
            "x_gate": "block_sparse_moe.experts.{}.w1.weight",
            "x_up": "block_sparse_moe.experts.{}.w3.weight",
            "x_down": "block_sparse_moe.experts.{}.w2.weight",
        },
    ),
}


def read_huggingface(folder: Path, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint of a folder. Overrides win over its config."""
    config, notes = read_config(folder)
    weights = read_weights(folder)
    vocabulary_names = settle_tying(config, weights)
    tied = "lm_head" not in vocabulary_names
    if tied and not config.tied and CLASSIFIER not in weights.holders:
        notes += (f"there is no {CLASSIFIER}, so the embedding is the classifier, though the config does not tie them",)
    config = replace(config, tied=tied)
    tensors = find_tensors(config, weights, vocabulary_names)
    notes += unused_note(config, weights, tensors)
    given = " ".join(f"{name}={value}" for name, value in overrides.given().items())
    if given:
        notes += (f"set by overrides: {given}",)
    files = (*config_files(folder), *weights.files)
    sampling = read_sampling(folder)
    return Checkpoint(
        "huggingface", overrides.apply(config), tensors, files, weights.maps, notes=notes, sampling=sampling
    )


def settle_tying(config: ModelConfig, weights: Weights) -> dict[str, str]:
    """The names in the file of ``tok_emb`` and, unless the classifier is the embedding, ``lm_head``.

    Files of tied models hold either matrix or both, and the config's flag is absent or wrong often enough. Where both
    are there and the flag says tied, the embedding wins, as in transformers; otherwise equal bytes are one matrix.
    """
    if EMBEDDING not in weights.holders:
        return {"tok_emb": CLASSIFIER if CLASSIFIER in weights.holders else EMBEDDING}
    if CLASSIFIER not in weights.holders or config.tied:
        return {"tok_emb": EMBEDDING}
    if same_bytes(weights.source(EMBEDDING), weights.source(CLASSIFIER)):
        return {"tok_emb": EMBEDDING}
    return {"tok_emb": EMBEDDING, "lm_head": CLASSIFIER}


def find_tensors(config: ModelConfig, weights: Weights, vocabulary_names: dict[str, str]) -> dict[str, TensorSource]:
    """Every tensor that the config asks for, of the shape that it asks for."""
    shapes = tensor_shapes(config)
    if config.layers * config.experts > len(weights.holders):  # before a name is made for each
        raise CheckpointError(
            f"{weights.where}: {len(weights.holders)} tensors; expected those of {config.experts} experts in each of "
            f"{config.layers} layers"
        )
    names = {n: [vocabulary_names[n]] if n in vocabulary_names else stored_names(n, config) for n in shapes}
    missing = [stored for parts in names.values() for stored in parts if stored not in weights.holders]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{weights.where}: tensors are missing: {', '.join(missing[:3])}{more}; "
            f"expected {sum(map(len, names.values()))} for a {config.family} model of {config.layers} layers"
        )
    tensors: dict[str, TensorSource] = {}
    for name, stored in names.items():
        parts = [weights.source(each) for each in stored]
        rows, *columns = shapes[name]
        for part in parts:
            if part.shape != (expected := (rows // len(parts), *columns)):
                raise CheckpointError(
                    f"{weights.holders[part.source].file.path}: {part.source} has shape {list(part.shape)}; "
                    f"expected {list(expected)} by config.json"
                )
            if part.dtype != parts[0].dtype:
                raise CheckpointError(
                    f"{weights.where}: {part.source} is {part.dtype}; expected {parts[0].dtype} as {parts[0].source}"
                )
        tensors[name] = parts[0] if len(parts) == 1 else stacked(parts, stored[0])
    return tensors


def stored_names(name: str, config: ModelConfig, family: str = "") -> list[str]:
    """A canonical name as Hugging Face files of a family spell it: one tensor, or one for each expert."""
    if name in MODEL_NAMES:
        return [MODEL_NAMES[name]]
    layer, part = name.split(".", 1)
    prefix = f"model.layers.{layer[1:]}."
    mixture = MIXTURES.get(family or config.family)
    if mixture is None or part not in mixture.experts:
        own = mixture.router if mixture is not None and part == "router" else LAYER_NAMES[part]
        return [prefix + own]
    return [prefix + mixture.experts[part].format(expert) for expert in range(config.experts)]


def unused_note(config: ModelConfig, weights: Weights, tensors: dict[str, TensorSource]) -> tuple[str, ...]:
    """A note of tensors that nothing reads: harmless leftovers, or a sign that the config is of another model."""
    used = {stored for name in tensors for stored in stored_names(name, config)} | {EMBEDDING, CLASSIFIER}
    # Old exports hold RoPE's frequencies; they follow from the config.
    unused = sorted(name for name in weights.holders if name not in used and "rotary_emb." not in name)
    if not unused:
        return ()
    more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
    return (f"tensors that the model does not use: {', '.join(shorten(name) for name in unused[:3])}{more}",)


def config_files(folder: Path) -> tuple[Path, ...]:
    return tuple(path for name in CONFIG_FILES if os.path.lexists(path := folder / name))
