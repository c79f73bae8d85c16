"""Writes a Hugging Face folder from any checkpoint, block by block: config.json and one safetensors file.

Every tensor keeps its stored dtype (int8 groups become f32) unless another is asked for. Rows of q and k are put in the
half-split order that these files have.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.errors import CheckpointError, PlanError
from graphllm.frontends.blocks import Blocks
from graphllm.frontends.checkpoint import Checkpoint, StoredDType
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.flat_writer import Progress
from graphllm.frontends.huggingface import stored_names
from graphllm.frontends.huggingface_config import CONFIG_FILES, FAMILIES
from graphllm.frontends.safetensors_shards import SINGLES
from graphllm.frontends.sizes import tensor_shapes
from graphllm.plan.atomic_file import replacing

DTYPES: dict[StoredDType, tuple[str, str, np.dtype[Any]]] = {
    "f32": ("F32", "float32", np.dtype("<f4")),
    "f16": ("F16", "float16", np.dtype("<f2")),
    "bf16": ("BF16", "bfloat16", np.dtype(ml_dtypes.bfloat16)),
}


def write_huggingface(
    folder: Path, checkpoint: Checkpoint, dtype: StoredDType | None = None, progress: Progress | None = None
) -> int:
    """Write config.json, model.safetensors and advised sampling into an existing folder; the bytes of weights.

    Raises:
        CheckpointError: no architecture of ours has the model's parts together, or the folder cannot be written.
    """
    config = checkpoint.config
    said = config_json(config, architecture_of(config))
    blocks = Blocks(checkpoint, "half")
    names = list(tensor_shapes(config))  # one order, whatever the source has
    matrix = checkpoint.tensors["l0.wq"].dtype
    said["torch_dtype"] = DTYPES[dtype or ("f32" if matrix == "i8" else matrix)][1]
    family = FAMILIES[said["architectures"][0]].name
    header, at = dict[str, Any](__metadata__={"format": "pt"}), 0
    for name in names:
        shape, kind = checkpoint.tensors[name].shape, dtype_of(checkpoint, name, dtype)
        stored = stored_names(name, config, family)
        part = (shape[0] // len(stored), *shape[1:])
        size = prod(part) * DTYPES[kind][2].itemsize
        for each in stored:
            header[each] = {"dtype": DTYPES[kind][0], "shape": list(part), "data_offsets": [at, at + size]}
            at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    try:
        done = 0
        with replacing(folder / SINGLES[0], 8 + len(text) + at) as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in names:
                for block in blocks_as(blocks, checkpoint, name, dtype):
                    content = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
                    file.write(content)
                    done += len(content)
                    if progress:
                        progress("writing", done, at)
        generation = {"do_sample": True, **checkpoint.sampling} if checkpoint.sampling else None
        for name, content in zip(CONFIG_FILES, (said, generation), strict=True):
            if content is not None:
                with replacing(folder / name, 1 << 16) as file:
                    file.write((json.dumps(content, indent=2) + "\n").encode())
    except PlanError as error:
        raise CheckpointError(str(error)) from None
    return at


def dtype_of(checkpoint: Checkpoint, name: str, asked: StoredDType | None) -> StoredDType:
    stored = checkpoint.tensors[name].dtype
    return asked or ("f32" if stored == "i8" else stored)


def blocks_as(blocks: Blocks, checkpoint: Checkpoint, name: str, dtype: StoredDType | None) -> Iterator[NDArray[Any]]:
    kind, stored = dtype_of(checkpoint, name, dtype), checkpoint.tensors[name].dtype
    if kind == stored:
        yield from blocks.stored(name)
    else:
        yield from (block.astype(DTYPES[kind][2]) for block in blocks.floats(name))


def architecture_of(config: ModelConfig) -> str:
    """The architecture whose parts are the model's. CheckpointError where there is none."""
    parts = (config.experts > 0, config.qk_norm, config.qkv_bias, config.o_bias, config.mlp_bias)
    windows = set(config.windows) - {0}
    match parts:
        case (True, True, False, False, False) if not windows:
            return "Qwen3MoeForCausalLM"
        case (True, False, False, False, False) if config.experts_normalized and len(set(config.windows)) <= 1:
            return "MixtralForCausalLM"
        case (False, True, bias, other, False) if bias == other:
            return "Qwen3ForCausalLM"
        case (False, False, True, False, False):
            return "Qwen2ForCausalLM"
        case (False, False, False, False, False) if windows and len(set(config.windows)) == 1:
            return "MistralForCausalLM"
        case (False, False, bias, other, _) if bias == other and not windows:
            return "LlamaForCausalLM"
        case _:
            raise CheckpointError(
                f"model of family {config.family}: its experts, norms, biases and windows are together in none of "
                f"{', '.join(FAMILIES)}, which a Hugging Face folder must name"
            )


def config_json(config: ModelConfig, architecture: str) -> dict[str, Any]:
    """config.json as transformers 4 writes it."""
    family = FAMILIES[architecture].name
    said: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": family,
        "hidden_size": config.dim,
        "moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling_json(config),
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_ids[0] if len(config.eos_ids) == 1 else list(config.eos_ids),
    }
    if family in ("llama", "qwen3", "qwen3_moe"):
        said["attention_bias"] = config.qkv_bias
    if family == "llama":
        said["mlp_bias"] = config.mlp_bias
    if family in ("mistral", "mixtral"):
        said["sliding_window"] = max(config.windows, default=0) or None
    if family in ("qwen2", "qwen3"):
        said["use_sliding_window"] = any(config.windows)
        said["sliding_window"] = max(config.windows, default=0) or None
        if any(config.windows):
            said["layer_types"] = ["sliding_attention" if w else "full_attention" for w in config.windows]
    if family == "qwen3_moe":
        said |= {"num_experts": config.experts, "norm_topk_prob": config.experts_normalized}
        said |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
    if family == "mixtral":
        said["num_local_experts"] = config.experts
    if config.experts:
        said["num_experts_per_tok"] = config.experts_used
    return said


def scaling_json(config: ModelConfig) -> dict[str, Any] | None:
    """``rope_scaling``, None for plain RoPE."""
    s = config.rope_scaling
    if s.kind == "default":
        return None
    said: dict[str, Any] = {"rope_type": s.kind, "factor": s.factor}
    if s.kind != "linear":
        said["original_max_position_embeddings"] = s.original_context
    if s.kind == "llama3":
        said |= {"low_freq_factor": s.low_freq_factor, "high_freq_factor": s.high_freq_factor}
    if s.kind == "yarn":
        said |= {"beta_fast": s.beta_fast, "beta_slow": s.beta_slow, "attention_factor": s.attention_factor}
        said["truncate"] = s.truncate
    return said
