"""Meta's own folders (consolidated.NN.pth, params.json) and llama2.c's training checkpoints, which share their names.

A model may be cut into shards, each a slice of most matrices: along the output for q, k, v, gate, up and classifier,
along the input for o and down. The embedding was cut along the width for Llama 1 and 2 and along the vocabulary since,
which its shape tells. Vectors are whole in every shard.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint, TensorSource, same_bytes
from graphllm.frontends.config import ModelConfig, RopeScaling
from graphllm.frontends.joined import side_by_side, stacked
from graphllm.frontends.json_fields import JsonFields, read_json
from graphllm.frontends.overrides import NO_OVERRIDES, PRESETS, Overrides
from graphllm.frontends.sizes import MAX_LAYERS, check_sizes, tensor_shapes, without_foreign_ids
from graphllm.frontends.torch_file import TorchFile, read_torch, same_place, tensors_of
from graphllm.frontends.torch_pickle import StoredTensor

PARAMS = "params.json"
SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
MAX_SHARDS = 64
LLAMA3_VOCAB = 128256
# By the output (0) or the input (1); the embedding's axis is asked of its shape, vectors are whole.
NAMES = {"tok_emb": "tok_embeddings.weight", "norm": "norm.weight", "lm_head": "output.weight"}
LAYER_NAMES = {
    "att_norm": ("attention_norm.weight", 0),
    "wq": ("attention.wq.weight", 0),
    "wk": ("attention.wk.weight", 0),
    "wv": ("attention.wv.weight", 0),
    "wo": ("attention.wo.weight", 1),
    "ffn_norm": ("ffn_norm.weight", 0),
    "w_gate": ("feed_forward.w1.weight", 0),
    "w_down": ("feed_forward.w2.weight", 1),
    "w_up": ("feed_forward.w3.weight", 0),
}
LEFT_OUT = re.compile(r"rope\.freqs|freqs_(cos|sin|cis)|.*\.mask")  # they follow from the config


@dataclass(frozen=True, slots=True)
class Shard:
    """One file's tensors under Meta's names."""

    file: TorchFile
    tensors: dict[str, StoredTensor]

    def source(self, name: str) -> TensorSource:
        return self.file.tensor(name, self.tensors[name])


def read_meta(folder: Path, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint of a folder with params.json. Overrides win over what it says."""
    said = read_json(folder / PARAMS)
    shards = read_shards(folder)
    config, notes = read_params(said, shards)
    tensors = merge(config, shards, folder)
    given = overrides.given()
    if given:
        notes += (f"set by overrides: {' '.join(f'{name}={value}' for name, value in given.items())}",)
    config, dropped = without_foreign_ids(overrides.apply(config))
    files = (folder / PARAMS, *(shard.file.file.path for shard in shards))
    maps = tuple(shard.file.file for shard in shards)
    return Checkpoint("meta", config, tensors, files, maps, notes=(*notes, *dropped))


def read_training(file: TorchFile, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint of a file that llama2.c's train.py saved: ``{"model": …, "model_args": …, …}``."""
    path = file.file.path
    where = f"{path}: model_args"
    saved: dict[str, Any] = file.value
    if not isinstance(saved["model_args"], dict):
        raise CheckpointError(f"{where} is not a dictionary; expected a llama2.c training checkpoint")
    # torch.compile wraps the model, and its name with it.
    named = {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors_of(saved["model"]).items()}
    shards = (Shard(file, named),)
    config, notes = read_params(JsonFields(where, cast("dict[str, Any]", saved["model_args"])), shards)
    assumed = overrides.on_top_of(replace(PRESETS["llama2"], norm_eps=None, rope_theta=None))
    config, dropped = without_foreign_ids(assumed.apply(config))
    tensors = merge(config, shards, path)
    return Checkpoint("llama2.c training", config, tensors, (path,), (file.file,), notes=(*notes, *dropped))


def is_training(file: TorchFile) -> bool:
    """Whether the file is a llama2.c training checkpoint."""
    saved: Any = file.value
    return isinstance(saved, dict) and "model_args" in saved and isinstance(saved.get("model"), dict)  # pyright: ignore


def read_shards(folder: Path) -> tuple[Shard, ...]:
    """The folder's files in order: 00, 01 … without a hole."""
    names = sorted(entry.name for entry in folder.iterdir() if SHARD.fullmatch(entry.name))
    expected = [f"consolidated.{i:02d}.pth" for i in range(len(names))]
    if not names:
        raise CheckpointError(f"{folder}: no weights; expected consolidated.00.pth beside {PARAMS}")
    if names != expected or len(names) > MAX_SHARDS:
        missing = next((name for name in expected if name not in names), names[-1])
        raise CheckpointError(f"{folder}: {len(names)} shards without {missing}; expected 00 to {len(names) - 1:02d}")
    made: list[Shard] = []
    for name in names:
        file = read_torch(folder / name)
        tensors = {n: t for n, t in file.entries.items() if not LEFT_OUT.fullmatch(n)}
        if not tensors:
            raise CheckpointError(f"{folder / name}: no tensors; expected a state dict")
        made.append(Shard(file, tensors))
    return tuple(made)


def read_params(said: JsonFields, shards: tuple[Shard, ...]) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config of params.json or model_args, with sizes that only the tensors know, and notes."""
    dim, heads = said.integer("dim"), said.integer("n_heads")
    if dim % heads:
        raise said.wrong("n_heads", f"a number that divides dim, {dim}")
    if any(key in said.data for key in ("moe", "num_experts", "quantization_args")):
        raise CheckpointError(f"{said.where}: experts or quantized weights are not supported in this format")
    rows = shape_of(shards, NAMES["tok_emb"])
    embedding_axis = 0 if rows[1] == dim else 1
    vocab = rows[0] * (len(shards) if embedding_axis == 0 else 1)
    stated = said.integer("vocab_size", -1, least=-1)
    if stated not in (-1, vocab):
        raise CheckpointError(f"{said.where}: vocab_size is {stated}; expected {vocab}, the embedding's rows, or -1")
    ffn = shape_of(shards, "layers.0." + LAYER_NAMES["w_gate"][0])[0] * len(shards)
    notes = ffn_notes(said, dim, ffn)
    llama3 = vocab == LLAMA3_VOCAB
    scaling, more = read_scaling(said, dim)
    trained = 131072 if scaling.kind == "llama3" else 8192 if llama3 else 2048
    config = ModelConfig(
        family="llama",
        dim=dim,
        layers=said.integer("n_layers", most=MAX_LAYERS),
        heads=heads,
        kv_heads=said.integer("n_kv_heads", heads),
        head_dim=dim // heads,
        ffn_dim=ffn,
        vocab=vocab,
        context=said.integer("max_seq_len", trained),
        norm_eps=said.number("norm_eps", 1e-5, below=1),
        rope_theta=said.number("rope_theta", 5e5 if llama3 else 1e4, above=1),
        rope_pairing="interleaved",
        rope_scaling=scaling,
        tied=is_tied(shards),
        bos_id=128000 if llama3 else 1,
        eos_ids=(128001, 128008, 128009) if llama3 else (2,),
    )
    check_sizes(config, said.where)
    return config, (*notes, *more)


def shape_of(shards: tuple[Shard, ...], name: str) -> tuple[int, int]:
    """Shape of a matrix in the first shard, when there is one."""
    tensor = shards[0].tensors.get(name)
    if tensor is None or len(tensor.shape) != 2:
        raise CheckpointError(f"{shards[0].file.file.path}: no matrix {name}; expected Meta's names of a Llama model")
    return tensor.shape[0], tensor.shape[1]


def ffn_notes(said: JsonFields, dim: int, ffn: int) -> tuple[str, ...]:
    """A note where the rule for the feed-forward size does not give what the tensors have; the tensors are right."""
    by_rule = ffn_by_rule(
        dim,
        said.integer("multiple_of", 256),
        said.number("ffn_dim_multiplier", 0.0, above=-1) or None,
    )
    stated = said.integer("hidden_dim", by_rule)
    if stated == ffn:
        return ()
    return (f"the feed-forward size is {ffn} by the tensors and {stated} by {Path(said.where).name}",)


def ffn_by_rule(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's rule: two thirds of 4D, times a factor, rounded up to a multiple."""
    size = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        size = int(multiplier * size)
    return multiple_of * math.ceil(size / multiple_of)


def read_scaling(said: JsonFields, dim: int) -> tuple[RopeScaling, tuple[str, ...]]:
    """RoPE scaling: the file has only a switch, as a rule; the factor of 32 is that of the models of 1B and 3B."""
    if not said.flag("use_scaled_rope", False):
        return RopeScaling(), ()
    known = said.data.get("rope_scaling_factor") is not None
    factor = said.number("rope_scaling_factor", 32.0 if dim in (2048, 3072) else 8.0)
    scaling = RopeScaling("llama3", factor, 8192, 1.0, said.number("rope_high_freq_factor", 4.0, above=1))
    note = f"RoPE is scaled, by what factor the file does not say: assumed {factor:g}, as Llama 3 of width {dim} has"
    return scaling, () if known else (note,)


def is_tied(shards: tuple[Shard, ...]) -> bool:
    """Whether the classifier is the embedding: not stored, stored as the same bytes, or equal to it."""
    first = shards[0]
    embedding, output = first.tensors.get(NAMES["tok_emb"]), first.tensors.get(NAMES["lm_head"])
    if output is None:
        return True
    if len(shards) > 1 or embedding is None or embedding.shape != output.shape:
        return False
    return same_place(embedding, output) or same_bytes(first.source(NAMES["tok_emb"]), first.source(NAMES["lm_head"]))


def merge(config: ModelConfig, shards: tuple[Shard, ...], where: Path) -> dict[str, TensorSource]:
    """Every tensor of the model, put together from its slices."""
    tensors: dict[str, TensorSource] = {}
    for name, shape in tensor_shapes(config).items():
        layer, _, part = name.rpartition(".")
        stored, axis = LAYER_NAMES[part] if layer else (NAMES[part], 0)
        stored = f"layers.{layer[1:]}.{stored}" if layer else stored
        missing = next((shard for shard in shards if stored not in shard.tensors), None)
        if missing is not None:
            raise CheckpointError(
                f"{missing.file.file.path}: {stored} is missing; expected it in a model of {config.layers} layers"
            )
        slices = [shard.source(stored) for shard in shards]
        if name == "tok_emb" and slices[0].shape[1:] != (config.dim,):
            axis = 1
        tensors[name] = joined(slices, axis, shape, where)
    return tensors


def joined(slices: list[TensorSource], axis: int, shape: tuple[int, ...], where: Path) -> TensorSource:
    """One tensor from its slices. Where there are more shards than kv heads, neighbours hold the same rows."""
    first = slices[0]
    if len(shape) == 1:
        slices = slices[:1]
    elif len(slices) > 1 and axis == 0 and len(first.shape) == 2 and first.shape[0] * len(slices) > shape[0]:
        slices = slices[:: first.shape[0] * len(slices) // shape[0]]
    total = list(first.shape)
    if len(total) == 2:
        total[axis] *= len(slices)
    if tuple(total) != shape or any(s.shape != first.shape or s.dtype != first.dtype for s in slices):
        got = ", ".join(str(list(s.shape)) for s in slices[:4])
        raise CheckpointError(
            f"{where}: {first.source} has shapes {got} in {len(slices)} shards; expected slices of {list(shape)}"
        )
    if len(slices) == 1:
        return first
    return stacked(slices, first.source) if axis == 0 else side_by_side(slices, first.source)
