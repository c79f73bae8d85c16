"""llama2.c's flat files: v0 (f32, no magic), v1 (f32) and v2 (int8 groups).

A file is a header of sizes and then tensors back to back, each kind for all layers in turn, so a layout here is a table
of sections from which size and offsets both follow. v0 has no magic: only its exact size tells it from KuiperLLama's
relatives with the same header, which are refused by name. KuiperLLama's plain f32 files are v0, byte for byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint, TensorSource
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.mapped_file import MappedFile, map_file
from graphllm.frontends.overrides import NO_OVERRIDES, PRESETS, Overrides
from graphllm.frontends.sizes import check_sizes, scale_shape, tensor_shapes, without_foreign_ids

MAGIC = 0x616B3432
V0_HEADER = 28
HEADER = 256  # of v1 and v2
F32 = np.dtype("<f4")
I8 = np.dtype("i1")

TABLES = "RoPE tables"  # cos and sin, always of base 1e4; every reader computes its own
V0_ORDER = (
    *("tok_emb", "l.att_norm", "l.wq", "l.wk", "l.wv", "l.wo", "l.ffn_norm", "l.w_gate", "l.w_down", "l.w_up"),
    *("norm", TABLES),
)
V1_ORDER = (
    *("l.att_norm", "l.ffn_norm", "norm", "tok_emb"),
    *("l.wq", "l.wk", "l.wv", "l.wo", "l.w_gate", "l.w_down", "l.w_up"),
)


@dataclass(frozen=True, slots=True)
class Section:
    """One kind of tensor, ``count`` times back to back: once for each layer, or once."""

    name: str  # canonical; "l." stands for every layer in turn
    count: int
    shape: tuple[int, ...]
    group: int  # int8 values, then one f32 scale for each so many of them; 0 for plain f32

    @property
    def stride(self) -> int:
        numel = prod(self.shape)
        return numel + numel // self.group * 4 if self.group else numel * 4

    def names(self) -> Iterator[str]:
        """The canonical name of each of its tensors, in file order."""
        for layer in range(self.count):
            yield f"l{layer}{self.name[1:]}" if self.name.startswith("l.") else self.name


def sections(config: ModelConfig, version: int, group: int = 0) -> list[Section]:
    """A file's tensors in order. Cheap whatever the sizes, so that a size can be checked before it is believed."""
    shapes = tensor_shapes(replace(config, layers=1)) | {TABLES: (config.context * config.head_dim,)}
    order = V0_ORDER if version == 0 else V1_ORDER
    made: list[Section] = []
    for name in (*order, *(() if config.tied else ("lm_head",))):
        per_layer = name.startswith("l.")
        shape = shapes["l0" + name[1:] if per_layer else name]
        made.append(Section(name, config.layers if per_layer else 1, shape, group if len(shape) == 2 else 0))
    return made


def stored_bytes(parts: list[Section]) -> int:
    """Bytes after the header."""
    return sum(part.count * part.stride for part in parts)


def read_llama2c(path: Path, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint of a v0, v1 or v2 file.

    What the file cannot say (eps, RoPE, special ids) is the preset ``llama2`` with ``overrides`` on top, and a note
    tells it. A context override only limits positions: v0's RoPE tables keep the size the header gives them.
    """
    file = map_file(path)
    if has_magic(file):
        config, version, group = read_header(file)
        start = HEADER
        expected = start + stored_bytes(sections(config, version, group))
        if file.size != expected:
            raise CheckpointError(
                f"{path}: {file.size} bytes; expected {expected} for a llama2.c v{version} file of {in_words(config)}"
            )
    else:
        config, version, group, start = read_v0_header(file), 0, 0, V0_HEADER
    assumed = overrides.on_top_of(PRESETS["llama2"])
    tensors = lay_out(file, sections(config, version, group), start)
    config, dropped = without_foreign_ids(assumed.apply(config))
    return Checkpoint(f"llama2.c v{version}", config, tensors, (path,), group, (assumption(config), *dropped))


def has_magic(file: MappedFile) -> bool:
    return file.data[:4] == MAGIC.to_bytes(4, "little")


def read_header(file: MappedFile) -> tuple[ModelConfig, int, int]:
    """Config, version and group size of a v1 or v2 header."""
    if file.size < HEADER:
        raise CheckpointError(f"{file.path}: {file.size} bytes; expected a llama2.c header of {HEADER}")
    # The flag is one byte, so the group size lies at the odd offset 37.
    version, *sizes, shared, group = struct.unpack_from("<i7iBi", file.data, 4)
    where = f"{file.path}: llama2.c header"
    if version not in (1, 2):
        raise CheckpointError(f"{where}: version {version}; expected 1 or 2")
    if shared not in (0, 1):
        raise CheckpointError(f"{where}: shared classifier flag is {shared}; expected 0 or 1")
    config = config_of(sizes, bool(shared), where)
    if version == 1:
        return config, 1, 0
    if group < 1:
        raise CheckpointError(f"{where}: group size is {group}; expected a positive one")
    for part in sections(config, 2, group):
        if part.group and prod(part.shape) % group:
            raise CheckpointError(f"{where}: group size is {group}; expected one that divides {part.name} {part.shape}")
    return config, 2, group


def read_v0_header(file: MappedFile) -> ModelConfig:
    """The config, once the size says that this is a v0 file and not one of its relatives."""
    if file.size < V0_HEADER:
        raise CheckpointError(f"{file.path}: {file.size} bytes; expected a checkpoint, and no header is so short")
    *sizes, vocab, context = struct.unpack_from("<7i", file.data)
    where = f"{file.path}: not a checkpoint of a known format; as a llama2.c v0 header"
    # An untied model is marked by the sign of its vocabulary.
    config = config_of([*sizes, abs(vocab), context], vocab > 0, where)
    candidates = v0_family_sizes(config, file)
    found = [name for name, size in candidates.items() if size == file.size]
    if not found:
        expected = ", ".join(f"{size} as {name}" for name, size in candidates.items())
        raise CheckpointError(
            f"{file.path}: {file.size} bytes; expected, by its header ({in_words(config)}), {expected}; "
            f"the file is truncated, has extra bytes, or is of another format"
        )
    if found[0] != "llama2.c v0":
        raise CheckpointError(f"{file.path}: a {found[0]} file, which is not supported; expected llama2.c v0, v1 or v2")
    return config


def v0_family_sizes(config: ModelConfig, file: MappedFile) -> dict[str, int]:
    """What the file's size would be as each of the formats that begin with these seven numbers, likeliest first."""
    parts = sections(config, 0)
    plain = V0_HEADER + stored_bytes(parts)
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    sizes = {"llama2.c v0": plain, "KuiperLLama Qwen2 layout": plain + 4 * config.layers * (q + 2 * kv)}
    group = struct.unpack_from("<i", file.data, V0_HEADER)[0] if file.size >= V0_HEADER + 4 else 0
    # There the embedding and the norms stay f32, and all other matrices are int8 groups.
    matrices = [part for part in parts if len(part.shape) == 2 and part.name != "tok_emb"]
    kept = [part for part in parts if part not in matrices and part.name != TABLES]
    quantized = sum(part.count * prod(part.shape) for part in matrices)
    if group > 0 and quantized % group == 0:
        sizes["KuiperLLama int8"] = V0_HEADER + 4 + stored_bytes(kept) + quantized + quantized // group * 4
    return sizes


def config_of(sizes: list[int], tied: bool, where: str) -> ModelConfig:
    """The config of the seven sizes; what a flat file cannot say is left for the overrides."""
    dim, ffn, layers, heads, kv_heads, vocab, context = sizes
    if heads < 1 or dim % heads:
        raise CheckpointError(
            f"{where}: dim {dim} with {heads} heads; expected a positive number of heads, dividing dim"
        )
    config = ModelConfig(
        family="llama",
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=dim // heads,
        ffn_dim=ffn,
        vocab=vocab,
        context=context,
        norm_eps=0.0,
        rope_theta=0.0,
        rope_pairing="interleaved",
        tied=tied,
    )
    check_sizes(config, where)
    return config


def lay_out(file: MappedFile, parts: list[Section], start: int) -> dict[str, TensorSource]:
    """Every tensor at its place. The size was checked, so that all places lie inside the file."""
    tensors: dict[str, TensorSource] = {}
    offset = start
    for part in parts:
        numel = prod(part.shape)
        for name in part.names():
            if part.group:
                scales = scale_shape(part.shape, part.group)
                read_scales = partial(finite_scales, file, offset + numel, scales, name)
                tensors[name] = TensorSource(name, "i8", part.shape, partial(file.view, offset, I8, part.shape))
                tensors[f"{name}.scale"] = TensorSource(f"{name}.scale", "f32", scales, read_scales)
            elif name != TABLES:
                tensors[name] = TensorSource(name, "f32", part.shape, partial(file.view, offset, F32, part.shape))
            offset += part.stride
    return tensors


def finite_scales(file: MappedFile, offset: int, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    """A matrix's scales. Those of all-zero groups are 0, which makes zeros of whatever int8 the exporter left there.

    No exporter writes NaN or infinity as a scale, so these are damage and not a way to say zero.
    """
    scales = file.view(offset, F32, shape)
    if not np.isfinite(scales).all():
        raise CheckpointError(f"{file.path}: scales of {name} hold NaN or infinity; expected finite numbers")
    return scales


def in_words(config: ModelConfig) -> str:
    return (
        f"dim {config.dim}, ffn {config.ffn_dim}, {config.layers} layers, {config.heads} heads, "
        f"{config.kv_heads} kv heads, vocabulary {config.vocab}{'' if config.tied else ' untied'}, "
        f"context {config.context}"
    )


def assumption(config: ModelConfig) -> str:
    """The note of what was assumed."""
    scaling = "" if config.rope_scaling.kind == "default" else f", {config.rope_scaling.kind} RoPE scaling"
    eos = ", ".join(map(str, config.eos_ids)) or "none"
    return (
        f"the file does not say norm_eps, RoPE or special ids: assumed norm_eps {config.norm_eps:g}, "
        f"rope_theta {config.rope_theta:g}, {config.rope_pairing} RoPE{scaling}, bos {config.bos_id}, eos {eos}; "
        f"a preset or overrides can say otherwise"
    )
