"""Makes Hugging Face checkpoints of random weights in the true shapes of well-known models, for measuring speed.

    python benchmarks/make_checkpoint.py tinyllama-1.1b -o DIR [--dtype bf16] [--layers N] [--shards N] [--seed N]

Nothing is downloaded and no tokenizer is made: runs go by token ids. The weights are one block of normal numbers, used
again and again under a scale that keeps activations near 1, so a file is written about as fast as the disk takes it and
memory stays at a few blocks whatever the model's size. The same arguments give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

# NumPy dtype, name in safetensors, name in config.json
DTYPES: dict[str, tuple[Any, str, str]] = {
    "f32": (np.float32, "F32", "float32"),
    "f16": (np.float16, "F16", "float16"),
    "bf16": (ml_dtypes.bfloat16, "BF16", "bfloat16"),
}

# A prime number of values, so that the rows of a matrix do not repeat after a few of them.
BLOCK_VALUES = 4_194_301


@dataclass(frozen=True, slots=True)
class Shape:
    """What config.json says, as far as sizes and flags go."""

    family: str  # "llama" or "qwen2"; qwen2 has biases on q, k and v
    dim: int
    ffn_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    context: int
    norm_eps: float
    rope_theta: float
    tied: bool
    bos_id: int
    eos_id: int
    extra: dict[str, Any] = field(default_factory=dict[str, Any])  # the rest of config.json

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


LLAMA3_SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
NO_WINDOW = {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 24}

SHAPES: dict[str, Shape] = {
    "tinyllama-1.1b": Shape("llama", 2048, 5632, 22, 32, 4, 32000, 2048, 1e-5, 1e4, False, 1, 2),
    "llama-3.2-1b": Shape(
        "llama", 2048, 8192, 16, 32, 8, 128256, 131072, 1e-5, 5e5, True, 128000, 128001,
        {"rope_scaling": LLAMA3_SCALING, "head_dim": 64},
    ),
    "qwen2.5-0.5b": Shape(
        "qwen2", 896, 4864, 24, 14, 2, 151936, 32768, 1e-6, 1e6, True, 151643, 151645, NO_WINDOW
    ),
    "stories260k": Shape("llama", 64, 172, 5, 8, 4, 512, 512, 1e-5, 1e4, True, 1, 2),
    "tiny": Shape("llama", 48, 100, 2, 3, 1, 259, 256, 1e-5, 1e4, False, 1, 2),
    "tiny-qwen": Shape("qwen2", 56, 120, 2, 4, 2, 259, 256, 1e-6, 1e6, True, 1, 2, NO_WINDOW),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write: normal numbers times std, plus mean."""

    name: str
    shape: tuple[int, ...]
    std: float
    mean: float = 0.0

    @property
    def values(self) -> int:
        return math.prod(self.shape)


def tensors_of(shape: Shape) -> list[Tensor]:
    """Every tensor of the model, embedding first, in the order of use."""
    dim, q_dim, kv_dim = shape.dim, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    quiet = 1.0 / math.sqrt(2 * shape.layers)  # 2L branches are added up; their sum stays near 1

    def matrix(name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return Tensor(f"{name}.weight", (rows, columns), gain / math.sqrt(columns))

    def norm(name: str) -> Tensor:
        return Tensor(f"{name}.weight", (dim,), 0.1, 1.0)

    tensors = [matrix("model.embed_tokens", shape.vocab, dim)]
    for layer in range(shape.layers):
        at = f"model.layers.{layer}"
        tensors += [
            norm(f"{at}.input_layernorm"),
            matrix(f"{at}.self_attn.q_proj", q_dim, dim),
            matrix(f"{at}.self_attn.k_proj", kv_dim, dim),
            matrix(f"{at}.self_attn.v_proj", kv_dim, dim),
            matrix(f"{at}.self_attn.o_proj", dim, q_dim, quiet),
            norm(f"{at}.post_attention_layernorm"),
            matrix(f"{at}.mlp.gate_proj", shape.ffn_dim, dim),
            matrix(f"{at}.mlp.up_proj", shape.ffn_dim, dim),
            matrix(f"{at}.mlp.down_proj", dim, shape.ffn_dim, quiet),
        ]
        if shape.family == "qwen2":
            biases = {"q_proj": q_dim, "k_proj": kv_dim, "v_proj": kv_dim}
            tensors += [Tensor(f"{at}.self_attn.{name}.bias", (size,), 0.1) for name, size in biases.items()]
    tensors.append(norm("model.norm"))
    if not shape.tied:
        tensors.append(matrix("lm_head", shape.vocab, dim))
    return tensors


def config_of(shape: Shape, dtype: str) -> dict[str, Any]:
    """config.json as published checkpoints carry it."""
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM" if shape.family == "qwen2" else "LlamaForCausalLM"],
        "model_type": shape.family,
        "hidden_size": shape.dim,
        "intermediate_size": shape.ffn_dim,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "rope_scaling": None,
        "hidden_act": "silu",
        "tie_word_embeddings": shape.tied,
        "bos_token_id": shape.bos_id,
        "eos_token_id": shape.eos_id,
        "torch_dtype": DTYPES[dtype][2],
    }
    if shape.family == "llama":
        config |= {"attention_bias": False, "mlp_bias": False}
    return config | shape.extra


class RandomBlock:
    """An endless reel of normal numbers: one block, entered anywhere and repeated."""

    def __init__(self, seed: int, dtype: str, most: int) -> None:
        self.dtype = DTYPES[dtype][0]
        self.rng = np.random.default_rng(seed)
        self.block = self.rng.standard_normal(min(BLOCK_VALUES, most), dtype=np.float32)

    def pieces(self, tensor: Tensor) -> Iterator[NDArray[Any]]:
        """The tensor's values in order, at most one block at a time. Each tensor enters the block somewhere else."""
        start = int(self.rng.integers(len(self.block)))
        left = tensor.values
        while left:
            piece = self.block[start : start + left]
            scaled = piece * np.float32(tensor.std)
            scaled += np.float32(tensor.mean)
            yield scaled.astype(self.dtype, copy=False)
            left -= len(piece)
            start = 0


def write_shard(path: Path, tensors: list[Tensor], block: RandomBlock, dtype: str) -> int:
    """One safetensors file; returns the bytes of its tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.values * np.dtype(block.dtype).itemsize
        header[tensor.name] = {"dtype": DTYPES[dtype][1], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins 8-aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            write_tensor(file, tensor, block)
    return end


def write_tensor(file: BinaryIO, tensor: Tensor, block: RandomBlock) -> None:
    for piece in block.pieces(tensor):
        file.write(piece.view(np.uint8).data)


def split(tensors: list[Tensor], shards: int) -> list[list[Tensor]]:
    """Runs of tensors of about equal size; fewer than asked for where a run would be empty."""
    total = sum(tensor.values for tensor in tensors)
    runs: list[list[Tensor]] = [[] for _ in range(shards)]
    before = 0
    for tensor in tensors:
        runs[before * shards // total].append(tensor)
        before += tensor.values
    return [run for run in runs if run]


def make_checkpoint(shape: Shape, out: Path, dtype: str = "f32", shards: int = 1, seed: int = 0) -> int:
    """Writes config.json and the weights into a folder, which is made; returns the bytes of all tensors."""
    out.mkdir(parents=True, exist_ok=True)
    for stale in [*out.glob("model*.safetensors"), out / "model.safetensors.index.json"]:
        stale.unlink(missing_ok=True)
    (out / "config.json").write_text(json.dumps(config_of(shape, dtype), indent=2) + "\n", encoding="utf-8")

    tensors = tensors_of(shape)
    block = RandomBlock(seed, dtype, sum(tensor.values for tensor in tensors))
    runs = split(tensors, shards)
    if len(runs) == 1:
        return write_shard(out / "model.safetensors", tensors, block, dtype)

    names = [f"model-{number:05d}-of-{len(runs):05d}.safetensors" for number in range(1, len(runs) + 1)]
    total = sum(write_shard(out / name, run, block, dtype) for name, run in zip(names, runs, strict=True))
    weight_map = {tensor.name: name for name, run in zip(names, runs, strict=True) for tensor in run}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return total


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a Hugging Face checkpoint of random weights.")
    parser.add_argument("model", choices=sorted(SHAPES))
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f32")
    parser.add_argument("--layers", type=positive, help="fewer or more layers than the model has")
    parser.add_argument("--shards", type=positive, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    shape: Shape = SHAPES[arguments.model]
    if arguments.layers is not None:
        shape = replace(shape, layers=arguments.layers)
    total = make_checkpoint(shape, arguments.out, arguments.dtype, arguments.shards, arguments.seed)
    print(f"{arguments.out}: {arguments.model}, {shape.layers} layers, {arguments.dtype}, {total / 1e9:.3f} GB")


if __name__ == "__main__":
    main()
