"""``config.json`` and ``generation_config.json`` of a Hugging Face folder, read into a ModelConfig.

Absent keys take the defaults of transformers' own config classes, family by family, because files were written by them
and leave out what they did not change.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.huggingface_rope import read_rope
from graphllm.frontends.json_fields import MAX_INT, JsonFields, read_json
from graphllm.frontends.sizes import MAX_LAYERS, check_sizes, without_foreign_ids


@dataclass(frozen=True, slots=True)
class Family:
    """What transformers' class of one architecture assumes. 0 for a size means: from the other sizes."""

    name: str
    context: int
    kv_heads: int = 0
    head_dim: int = 0
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()


FAMILIES = {
    "LlamaForCausalLM": Family("llama", 2048, bos_id=1, eos_ids=(2,)),
    "MistralForCausalLM": Family("mistral", 4096 * 32, kv_heads=8, bos_id=1, eos_ids=(2,)),
    "Qwen2ForCausalLM": Family("qwen2", 32768, kv_heads=32),
    "Qwen3ForCausalLM": Family("qwen3", 32768, kv_heads=32, head_dim=128),
    "MixtralForCausalLM": Family("mixtral", 4096 * 32, kv_heads=8, bos_id=1, eos_ids=(2,)),
    "Qwen3MoeForCausalLM": Family("qwen3_moe", 32768, kv_heads=4),
}
CONFIG_FILES = ("config.json", "generation_config.json")
DEFAULT_WINDOW = 4096  # Mistral's and Qwen's, where the key is absent


def read_config(folder: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    """The folder's config, and notes. ``tied`` is the config's word; the tensors have the last one."""
    said = read_json(folder / CONFIG_FILES[0])
    family = read_family(said)
    if said.data.get("quantization_config") is not None:
        method = said.object("quantization_config")
        name = method.text("quant_method", "unknown") if method else ""
        raise CheckpointError(
            f"{said.where}: quantized weights ({name}) are not supported; expected a checkpoint in F32, F16 or BF16"
        )
    said.choice("hidden_act", "silu", ("silu", "swish"))  # two names of one function
    dim, heads = said.integer("hidden_size"), said.integer("num_attention_heads")
    layers = said.integer("num_hidden_layers", most=MAX_LAYERS)
    context = said.integer("max_position_embeddings", family.context)
    theta, scaling = read_rope(said, context)
    attention_bias = family.name in ("llama", "qwen3", "qwen3_moe") and said.flag("attention_bias", False)
    experts, used, normalized = read_experts(said, family, layers)
    bos_id, eos_ids = read_special_ids(said, folder, family)
    config = ModelConfig(
        family=family.name,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=said.integer("num_key_value_heads", default_kv_heads(said, family, heads)),
        head_dim=said.integer("head_dim", family.head_dim or default_head_dim(said, dim, heads)),
        ffn_dim=said.integer("moe_intermediate_size" if family.name == "qwen3_moe" else "intermediate_size"),
        vocab=said.integer("vocab_size"),
        context=context,
        norm_eps=said.number("rms_norm_eps", 1e-6, below=1),
        rope_theta=theta,
        rope_pairing="half",
        rope_scaling=scaling,
        windows=read_windows(said, family, layers),
        qkv_bias=family.name == "qwen2" or attention_bias,
        o_bias=attention_bias,
        mlp_bias=family.name == "llama" and said.flag("mlp_bias", False),
        qk_norm=family.name in ("qwen3", "qwen3_moe"),
        tied=said.flag("tie_word_embeddings", False),
        bos_id=bos_id,
        eos_ids=eos_ids,
        experts=experts,
        experts_used=used,
        experts_normalized=normalized,
    )
    check_sizes(config, said.where)
    return without_foreign_ids(config)


def read_family(said: JsonFields) -> Family:
    """The family of the architecture; CheckpointError naming one that is not ours."""
    architectures = said.texts("architectures")
    model_type = said.text("model_type", "")
    if not architectures:
        architectures = [name for name, family in FAMILIES.items() if family.name == model_type]
    if not architectures and not model_type:
        raise said.wrong("architectures", f"one of {', '.join(FAMILIES)}")
    name = architectures[0] if architectures else f"model_type {model_type}"
    if name in FAMILIES:
        return FAMILIES[name]
    experts = "moe" in name.lower() or "num_experts" in said.data
    what = f"architecture {name[:80]!r}{' (a mixture of experts)' if experts else ''}"
    raise CheckpointError(f"{said.where}: {what} is not supported; expected one of {', '.join(FAMILIES)}")


def read_experts(said: JsonFields, family: Family, layers: int) -> tuple[int, int, bool]:
    """Experts of each layer, how many a token uses, and whether their shares add up to 1; 0 for a model without."""
    if family.name == "mixtral":
        return said.integer("num_local_experts", 8), said.integer("num_experts_per_tok", 2), True
    if family.name != "qwen3_moe":
        return 0, 0, True
    dense = said.ids("mlp_only_layers")
    if any(layer < layers for layer in dense) or said.integer("decoder_sparse_step", 1) != 1:
        raise CheckpointError(
            f"{said.where}: some layers without experts (mlp_only_layers, decoder_sparse_step); expected them in all"
        )
    return said.integer("num_experts", 128), said.integer("num_experts_per_tok", 8), said.flag("norm_topk_prob", False)


def default_kv_heads(said: JsonFields, family: Family, heads: int) -> int:
    """As many as heads where the key is null, and where it is absent what the family's class says."""
    return heads if "num_key_value_heads" in said.data else family.kv_heads or heads


def default_head_dim(said: JsonFields, dim: int, heads: int) -> int:
    if said.data.get("head_dim") is None and dim % heads:
        raise said.wrong("head_dim", f"it to be said, as {heads} heads do not divide hidden_size {dim}")
    return max(1, dim // heads)


def read_windows(said: JsonFields, family: Family, layers: int) -> tuple[int, ...]:
    """Window of each layer, () when all attention is full. Mistral's windows are on all layers or on none."""
    if family.name == "llama":
        return ()
    absent = "sliding_window" not in said.data
    window = said.integer("sliding_window", DEFAULT_WINDOW if absent else 0, least=0, most=MAX_INT)
    if family.name in ("mistral", "mixtral"):
        return (window,) * layers if window else ()
    kinds = said.texts("layer_types")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise CheckpointError(
                f"{said.where}: layer_types has {kind[:80]!r}, which is not supported; "
                f"expected full_attention or sliding_attention"
            )
    if kinds and len(kinds) != layers:
        raise CheckpointError(
            f"{said.where}: layer_types has {len(kinds)} entries; expected one for each of {layers} layers"
        )
    first = said.integer("max_window_layers", 28, least=0)
    if not window or not said.flag("use_sliding_window", False):
        return ()
    slides = [kind == "sliding_attention" for kind in kinds] or [layer >= first for layer in range(layers)]
    return tuple(window if slide else 0 for slide in slides) if any(slides) else ()


def read_special_ids(said: JsonFields, folder: Path, family: Family) -> tuple[int | None, tuple[int, ...]]:
    """BOS and EOS ids; generation_config.json has the last word, as it is what generation reads."""
    bos = None if "bos_token_id" in said.data else family.bos_id
    eos = () if "eos_token_id" in said.data else family.eos_ids
    generation = folder / CONFIG_FILES[1]
    for fields in (said, *((read_json(generation),) if os.path.lexists(generation) else ())):
        if fields.data.get("bos_token_id") is not None:
            bos = fields.integer("bos_token_id", least=-MAX_INT)
        eos = fields.ids("eos_token_id") or eos
    return bos, eos
