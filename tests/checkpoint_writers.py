"""Writes small checkpoints in every format we read, from a config and float32 arrays under canonical names.

Written from the formats' own descriptions and sharing nothing with the readers, so that reading back what these
wrote is evidence. Names and shapes of the arrays are those of ``graphllm.frontends.checkpoint``.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig

Array = NDArray[np.float32]
Style = Literal["v4", "v5"]
Tensors = Mapping[str, Array]

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

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
MODEL_NAMES = {"tok_emb": "model.embed_tokens.weight", "norm": "model.norm.weight", "lm_head": "lm_head.weight"}


def random_tensors(config: ModelConfig, rng: np.random.Generator) -> dict[str, Array]:
    """Every tensor the config asks for, scaled so that activations stay near 1 through the layers."""
    d, q, kv = config.dim, config.heads * config.head_dim, config.kv_heads * config.head_dim
    ffn, vocab = config.ffn_dim, config.vocab
    tensors: dict[str, Array] = {}

    def matrix(name: str, rows: int, columns: int) -> None:
        tensors[name] = (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def norm(name: str, size: int) -> None:
        tensors[name] = (1 + 0.2 * rng.standard_normal(size)).astype(np.float32)

    def bias(name: str, size: int) -> None:
        tensors[name] = (0.3 * rng.standard_normal(size)).astype(np.float32)

    tensors["tok_emb"] = rng.standard_normal((vocab, d)).astype(np.float32)
    norm("norm", d)
    if not config.tied:
        matrix("lm_head", vocab, d)
    for layer in range(config.layers):
        at = f"l{layer}."
        norm(at + "att_norm", d)
        norm(at + "ffn_norm", d)
        for name, rows, columns in (("wq", q, d), ("wk", kv, d), ("wv", kv, d), ("wo", d, q)):
            matrix(at + name, rows, columns)
        for name, rows, columns in (("w_gate", ffn, d), ("w_up", ffn, d), ("w_down", d, ffn)):
            matrix(at + name, rows, columns)
        if config.qkv_bias:
            for name, size in (("bq", q), ("bk", kv), ("bv", kv)):
                bias(at + name, size)
        if config.o_bias:
            bias(at + "bo", d)
        if config.mlp_bias:
            for name, size in (("b_gate", ffn), ("b_up", ffn), ("b_down", d)):
                bias(at + name, size)
        if config.qk_norm:
            norm(at + "q_norm", config.head_dim)
            norm(at + "k_norm", config.head_dim)
    return tensors


def quantize_groups(matrix: Array, group: int) -> tuple[NDArray[np.int8], Array]:
    """int8 values, in the matrix's shape, and one scale for every ``group`` consecutive values, row-major."""
    groups = matrix.reshape(-1, group)
    scales = np.abs(groups).max(axis=1) / np.float32(127)
    values = np.round(groups / np.where(scales == 0, 1, scales)[:, None])
    return values.astype(np.int8).reshape(matrix.shape), scales.astype(np.float32)


def write_llama2c(path: Path, config: ModelConfig, tensors: Tensors, version: int = 0, group: int = 0) -> None:
    """A llama2.c file. ``group`` is for version 2; 0 picks 64, halved until it divides D."""
    assert config.heads * config.head_dim == config.dim, "llama2.c files cannot say a head size apart from D/H"
    assert not any((config.qkv_bias, config.o_bias, config.mlp_bias, config.qk_norm)), "nor biases, nor q/k norms"
    sizes = [config.dim, config.ffn_dim, config.layers, config.heads, config.kv_heads, config.vocab, config.context]

    def each_layer(*names: str) -> list[Array]:
        return [tensors[f"l{layer}.{name}"] for name in names for layer in range(config.layers)]

    def put(arrays: Sequence[NDArray[Any]]) -> bytes:
        return b"".join(np.ascontiguousarray(array, "<f4").tobytes() for array in arrays)

    classifier = [] if config.tied else [tensors["lm_head"]]
    attention, norms = ("wq", "wk", "wv", "wo"), each_layer("att_norm", "ffn_norm")
    if version == 0:
        sizes[5] *= 1 if config.tied else -1
        angles = np.outer(
            np.arange(config.context), 1e4 ** (-np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
        )
        body = put([tensors["tok_emb"], *each_layer("att_norm", *attention, "ffn_norm", "w_gate", "w_down", "w_up")])
        body += put([tensors["norm"], np.cos(angles), np.sin(angles), *classifier])
        path.write_bytes(struct.pack("<7i", *sizes) + body)
        return
    header = struct.pack("<Ii7iB", 0x616B3432, version, *sizes, config.tied)
    matrices = [tensors["tok_emb"], *each_layer(*attention, "w_gate", "w_down", "w_up"), *classifier]
    if version == 1:
        body = put([*norms, tensors["norm"], *matrices])
    else:
        if group == 0:
            group = 64
            while config.dim % group:
                group //= 2
        header += struct.pack("<i", group)
        body = put([*norms, tensors["norm"]])
        for matrix in matrices:
            values, scales = quantize_groups(matrix, group)
            body += values.tobytes() + put([scales])
    path.write_bytes(header.ljust(256, b"\0") + body)


def write_kuiper(path: Path, config: ModelConfig, tensors: Tensors, group: int = 0) -> None:
    """A KuiperLLama file: f32, with biases where the config has them, or int8 when there is a group size."""
    vocab = config.vocab if config.tied else -config.vocab
    sizes = [config.dim, config.ffn_dim, config.layers, config.heads, config.kv_heads, vocab, config.context]
    out = struct.pack("<7i", *sizes)

    def put(*names: str) -> bytes:
        return b"".join(tensors[name].astype("<f4").tobytes() for name in names)

    def layers(*parts: str) -> list[str]:
        return [f"l{i}.{part}" for i in range(config.layers) for part in parts]

    if group:
        out += struct.pack("<i", group)
        matrices = [name for part in ("wq", "wk", "wv", "wo", "w_gate", "w_down", "w_up") for name in layers(part)]
        for name in [*matrices, *(() if config.tied else ("lm_head",))]:
            values, scales = quantize_groups(tensors[name], group)
            out += values.tobytes() + scales.astype("<f4").tobytes()
        out += put("tok_emb", *layers("att_norm"), *layers("ffn_norm"), "norm")
    else:
        out += put("tok_emb", *layers("att_norm"))
        for letter in "qkv":
            out += put(*layers(f"w{letter}", *((f"b{letter}",) if config.qkv_bias else ())))
        for part in ("wo", "ffn_norm", "w_gate", "w_down", "w_up"):
            out += put(*layers(part))
        out += put("norm") + bytes(4 * config.context * config.head_dim)
        out += b"" if config.tied else put("lm_head")
    path.write_bytes(out)


def huggingface_config(config: ModelConfig, dtype: str = "float32", style: Style = "v4") -> dict[str, Any]:
    """``config.json`` as transformers 4 or 5 writes it for this model."""
    assert config.rope_pairing == "half", "Hugging Face files hold q and k rows in half-split order"
    data: dict[str, Any] = {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.bos_id,
        "eos_token_id": list(config.eos_ids) if len(config.eos_ids) != 1 else config.eos_ids[0],
    }
    if config.family in ("llama", "qwen3"):
        assert config.qkv_bias == config.o_bias
        data["attention_bias"] = config.qkv_bias
    if config.family == "llama":
        data["mlp_bias"] = config.mlp_bias
    if config.family == "mistral":
        assert len(set(config.windows)) <= 1, "Mistral has one window for all layers"
        data["sliding_window"] = next(iter(config.windows), 0) or None
    if config.family in ("qwen2", "qwen3"):
        full = [window == 0 for window in config.windows] or [True] * config.layers
        data["use_sliding_window"] = not all(full)
        data["sliding_window"] = max(config.windows, default=0) or None
        data["max_window_layers"] = full.index(False) if False in full else config.layers
        if style == "v5":
            data["layer_types"] = ["full_attention" if is_full else "sliding_attention" for is_full in full]
        else:
            assert full == sorted(full, reverse=True), "version 4 files can only say from which layer windows begin"
    rope = rope_scaling_json(config)
    if style == "v5":
        data["rope_parameters"] = {"rope_type": "default", **rope, "rope_theta": config.rope_theta}
        data["dtype"] = dtype
    else:
        data["rope_theta"] = config.rope_theta
        data["rope_scaling"] = rope or None
        data["torch_dtype"] = dtype
    return data


def rope_scaling_json(config: ModelConfig) -> dict[str, Any]:
    """The scaling's own keys, empty for plain RoPE."""
    scaling = config.rope_scaling
    if scaling.kind == "default":
        return {}
    said: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        said["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        said |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        said |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow, "truncate": scaling.truncate}
        said |= {"attention_factor": scaling.attention_factor}
    return said


def huggingface_names(tensors: Tensors) -> dict[str, Array]:
    """The same tensors under the names of Hugging Face files."""
    named: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if name in MODEL_NAMES:
            named[MODEL_NAMES[name]] = tensor
        else:
            layer, part = name.split(".", 1)
            named[f"model.layers.{layer[1:]}.{LAYER_NAMES[part]}"] = tensor
    return named


def write_huggingface(
    folder: Path,
    config: ModelConfig,
    tensors: Tensors,
    dtype: str = "float32",
    shards: int = 1,
    style: Style = "v4",
) -> None:
    """A Hugging Face folder: config.json and one safetensors file, or several with their index."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(huggingface_config(config, dtype, style), indent=2))
    named = {name: tensor.astype(DTYPES[dtype]) for name, tensor in huggingface_names(tensors).items()}
    if shards == 1:
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
        return
    files = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(named)}
    for file in set(files.values()):
        part = {name: array for name, array in named.items() if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(array.nbytes for array in named.values())}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


Header = Mapping[str, Any] | bytes


def write_safetensors(path: Path, header: Header, data: bytes = b"", length: int | None = None) -> None:
    """A safetensors file of exactly these parts, right or wrong; ``length`` overrides the header's stated length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
