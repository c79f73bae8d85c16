"""Reads the flat files of llama2.c (v0, v1, v2) and KuiperLLama (f32, Qwen2 with biases, int8).

Without a magic only the exact size tells v0 and KuiperLLama's relatives apart, so each is computed from the header and
one must fit to the byte. What such a file cannot say (eps, RoPE, special ids) is a preset's, and a note tells it.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint, TensorSource
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.flat_layout import (
    HEADER_BYTES,
    MAGIC,
    TABLES,
    FlatFormat,
    file_bytes,
    placed,
    sections,
    undivided,
)
from graphllm.frontends.mapped_file import MappedFile
from graphllm.frontends.overrides import NO_OVERRIDES, PRESETS, Overrides
from graphllm.frontends.sizes import check_sizes, scale_shape, without_foreign_ids

F32 = np.dtype("<f4")
I8 = np.dtype("i1")
LLAMA3_VOCAB = 128256
QWEN2_VOCABS = (151936, 152064)


def read_flat(file: MappedFile, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint of a flat file.

    What the file cannot say is the preset ``llama2`` (``kuiper-qwen2`` where there are biases) with ``overrides`` on
    top. A context override only limits positions: RoPE tables keep the size the header gives them.
    """
    path = file.path
    if has_magic(file):
        format, config, group = read_header(file)
        expected = file_bytes(config, format, group)
        if file.size != expected:
            raise CheckpointError(
                f"{path}: {file.size} bytes; expected {expected} for a {format} file of {in_words(config)}"
            )
    else:
        format, config, group = read_untagged(file)
    if format == "KuiperLLama int8" and config.vocab in QWEN2_VOCABS:
        raise CheckpointError(
            f"{path}: a KuiperLLama int8 file with Qwen2's vocabulary of {config.vocab}; expected a model without "
            f"biases: that exporter drops Qwen2's, so the weights are not whole; export it as f32"
        )
    assumed = overrides.on_top_of(PRESETS["kuiper-qwen2" if config.qkv_bias else "llama2"])
    tensors = lay_out(file, config, format, group)
    tables = {name: tensors.pop(name) for name in (TABLES,) if name in tensors}
    hints = hint(config, assumed)
    config, dropped = without_foreign_ids(assumed.apply(config))
    return Checkpoint(
        format, config, tensors, (path,), (file,), group, extras=tables, notes=(assumption(config), *hints, *dropped)
    )


def has_magic(file: MappedFile) -> bool:
    return file.data[:4] == MAGIC.to_bytes(4, "little")


def read_header(file: MappedFile) -> tuple[FlatFormat, ModelConfig, int]:
    """Format, config and group size of a v1 or v2 header."""
    if file.size < HEADER_BYTES["llama2.c v1"]:
        raise CheckpointError(
            f"{file.path}: {file.size} bytes; expected a llama2.c header of {HEADER_BYTES['llama2.c v1']}"
        )
    # The flag is one byte, so the group size lies at the odd offset 37.
    version, *sizes, shared, group = struct.unpack_from("<i7iBi", file.data, 4)
    where = f"{file.path}: llama2.c header"
    if version not in (1, 2):
        raise CheckpointError(f"{where}: version {version}; expected 1 or 2")
    if shared not in (0, 1):
        raise CheckpointError(f"{where}: shared classifier flag is {shared}; expected 0 or 1")
    config = config_of(sizes, bool(shared), where)
    if version == 1:
        return "llama2.c v1", config, 0
    if group < 1:
        raise CheckpointError(f"{where}: group size is {group}; expected a positive one")
    if part := undivided(config, "llama2.c v2", group):
        raise CheckpointError(f"{where}: group size is {group}; expected one that divides {part.name} {part.shape}")
    return "llama2.c v2", config, group


def read_untagged(file: MappedFile) -> tuple[FlatFormat, ModelConfig, int]:
    """Format, config and group size, once the size says which of the formats without a magic this is."""
    if file.size < HEADER_BYTES["llama2.c v0"]:
        raise CheckpointError(f"{file.path}: {file.size} bytes; expected a checkpoint, and no header is so short")
    *sizes, vocab, context = struct.unpack_from("<7i", file.data)
    where = f"{file.path}: not a checkpoint of a known format; as a llama2.c v0 header"
    # An untied model is marked by the sign of its vocabulary.
    config = config_of([*sizes, abs(vocab), context], vocab > 0, where)
    considered: list[str] = []
    for format, group in untagged_formats(config, file):
        size = file_bytes(config, format, group)
        if size == file.size:
            return format, replace(config, qkv_bias=format == "KuiperLLama Qwen2"), group
        considered.append(f"{size} as {format}{f' with groups of {group}' if group else ''}")
    raise CheckpointError(
        f"{file.path}: {file.size} bytes; expected, by its header ({in_words(config)}), {', '.join(considered)}; "
        f"the file is truncated, has extra bytes, or is of another format"
    )


def untagged_formats(config: ModelConfig, file: MappedFile) -> list[tuple[FlatFormat, int]]:
    """The formats that begin with these seven numbers, likeliest first, each with its group size."""
    found: list[tuple[FlatFormat, int]] = [("llama2.c v0", 0), ("KuiperLLama Qwen2", 0)]
    group = struct.unpack_from("<i", file.data, 28)[0] if file.size >= HEADER_BYTES["KuiperLLama int8"] else 0
    if group > 0 and undivided(config, "KuiperLLama int8", group) is None:
        found.append(("KuiperLLama int8", group))
    return found


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


def lay_out(file: MappedFile, config: ModelConfig, format: FlatFormat, group: int) -> dict[str, TensorSource]:
    """Every tensor at its place. The size was checked, so that all places lie inside the file."""
    tensors: dict[str, TensorSource] = {}
    offset = HEADER_BYTES[format]
    for name, part in placed(sections(config, format, group)):
        numel = prod(part.shape)
        if part.group:
            scales = scale_shape(part.shape, part.group)
            read_scales = partial(finite_scales, file, offset + numel, scales, name)
            tensors[name] = TensorSource(name, "i8", part.shape, partial(file.view, offset, I8, part.shape))
            tensors[f"{name}.scale"] = TensorSource(f"{name}.scale", "f32", scales, read_scales)
        else:
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


def hint(config: ModelConfig, assumed: Overrides) -> tuple[str, ...]:
    """A note where the vocabulary speaks against what was assumed: one header serves models that turn differently."""
    if config.vocab == LLAMA3_VOCAB and assumed.rope_theta == PRESETS["llama2"].rope_theta:
        return (
            f"a vocabulary of {LLAMA3_VOCAB} is Llama 3's, whose rope_theta is 5e5: the preset llama3 is for files "
            f"made from Meta's weights, kuiper-llama3 for KuiperLLama's from Hugging Face's",
        )
    return ()
