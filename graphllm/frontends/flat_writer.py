"""Writes the flat files of llama2.c and KuiperLLama from any checkpoint, block by block."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import CheckpointError, PlanError
from graphllm.frontends.blocks import Blocks
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.config import ModelConfig, RopePairing
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
from graphllm.plan.atomic_file import AtomicFile, replacing

Progress = Callable[[str, int, int], None]
Array = NDArray[Any]
MOST_GROUP = 64
INT8: tuple[FlatFormat, ...] = ("llama2.c v2", "KuiperLLama int8")
KUIPER_HALF = (5e5, 1e6)  # theta of the builds of KuiperLLama that turn halves
TABLE_ROWS = 4096


@dataclass(frozen=True, slots=True)
class FlatTarget:
    """What to write: a format, the order of q and k rows, and the size of int8 groups (0 for f32)."""

    format: FlatFormat
    pairing: RopePairing
    group: int


def flat_target(checkpoint: Checkpoint, kind: str, group: int = 0, pairing: RopePairing | None = None) -> FlatTarget:
    """What ``v0``, ``v1``, ``v2``, ``kuiper`` or ``kuiper-int8`` means for a model.

    Raises:
        CheckpointError: the format cannot express the model, or the group size does not divide a matrix.
    """
    config = checkpoint.config
    kuiper = kind.startswith("kuiper")
    format: FlatFormat = "KuiperLLama int8" if kind == "kuiper-int8" else "llama2.c v0"
    if kind in ("v1", "v2"):
        format = "llama2.c v1" if kind == "v1" else "llama2.c v2"
    if kind == "kuiper" and config.qkv_bias:
        format = "KuiperLLama Qwen2"
    if reason := inexpressible(config, format):
        raise CheckpointError(f"{checkpoint.files[0]}: a {format} file cannot express this model: {reason}")
    halves = kuiper and (config.qkv_bias or config.rope_theta in KUIPER_HALF)
    chosen = pairing or ("half" if halves else "interleaved")
    if format not in INT8:
        if group:
            raise CheckpointError(f"group size {group}: {format} holds no int8; expected it with v2 or kuiper-int8")
        return FlatTarget(format, chosen, 0)
    size = group or default_group(checkpoint, format)
    if part := undivided(config, format, size):
        raise CheckpointError(f"group size {size}: expected one that divides {part.name} {list(part.shape)}")
    return FlatTarget(format, chosen, size)


def inexpressible(config: ModelConfig, format: FlatFormat) -> str:
    """Why a format cannot hold a model; "" when it can."""
    if config.experts:
        return "it is a mixture of experts"
    if config.heads * config.head_dim != config.dim:
        return f"its {config.heads} heads of {config.head_dim} are not its width of {config.dim}"
    if config.qk_norm:
        return "it normalises each head of q and k"
    if config.o_bias or config.mlp_bias:
        return "it has biases other than those of q, k and v"
    if config.qkv_bias and format != "KuiperLLama Qwen2":
        return "it has biases of q, k and v, for which only the f32 format kuiper has room"
    if any(0 < window < config.context for window in config.windows):
        return "its attention is limited to a window"
    return ""


def default_group(checkpoint: Checkpoint, format: FlatFormat) -> int:
    """The checkpoint's own groups where they fit, else the largest of 64, 32 … that does: D and F for v2."""

    def fits(size: int) -> bool:
        config = checkpoint.config
        if format == "llama2.c v2" and (config.dim % size or config.ffn_dim % size):
            return False  # run.c's own reader goes wrong where a row is not whole groups
        return undivided(config, format, size) is None

    if checkpoint.group and fits(checkpoint.group):
        return checkpoint.group
    return next(size for size in (MOST_GROUP >> i for i in range(7)) if fits(size))


def write_flat(path: Path, checkpoint: Checkpoint, target: FlatTarget, progress: Progress | None = None) -> int:
    """Write the file, atomically; its size. CheckpointError when it cannot be written."""
    size = file_bytes(checkpoint.config, target.format, target.group)
    try:
        with replacing(path, size) as file:
            out = _Out(file, size, progress)
            out.write(header(checkpoint.config, target).ljust(HEADER_BYTES[target.format], b"\0"))
            blocks = Blocks(checkpoint, target.pairing)
            for name, part in placed(sections(checkpoint.config, target.format, target.group)):
                if name == TABLES:
                    for table in tables(checkpoint):
                        out.write(table)
                elif part.group:
                    write_int8(out, blocks, name, part.group)
                else:
                    for block in blocks.floats(name):
                        out.write(block.astype("<f4", copy=False))
    except PlanError as error:
        raise CheckpointError(str(error)) from None
    assert out.done == size
    return size


def header(config: ModelConfig, target: FlatTarget) -> bytes:
    """Sizes; without a magic the sign of the vocabulary says whether the classifier is the embedding."""
    sizes = [config.dim, config.ffn_dim, config.layers, config.heads, config.kv_heads, config.vocab, config.context]
    if target.format in ("llama2.c v1", "llama2.c v2"):
        version = 1 if target.format == "llama2.c v1" else 2
        tail = struct.pack("<i", target.group) if target.group else b""
        return struct.pack("<Ii7iB", MAGIC, version, *sizes, config.tied) + tail
    sizes[5] *= 1 if config.tied else -1
    return struct.pack("<7i", *sizes) + (struct.pack("<i", target.group) if target.group else b"")


def tables(checkpoint: Checkpoint) -> Iterator[Array]:
    """cos and sin of every position and pair, base 1e4, which readers skip and none may miss.

    Those of the checkpoint, where it has them: another program's cosines differ in their last bits.
    """
    config, own = checkpoint.config, checkpoint.extras.get(TABLES)
    if own is not None and own.shape == (config.context * config.head_dim,):
        yield own.read()
        return
    d = config.head_dim
    freqs = (1.0 / np.float32(1e4) ** (np.arange(0, d, 2, dtype=np.float32) / np.float32(d))).astype(np.float32)
    for turn in (np.cos, np.sin):
        for first in range(0, config.context, TABLE_ROWS):
            positions = np.arange(first, min(first + TABLE_ROWS, config.context), dtype=np.float32)
            yield turn(np.outer(positions, freqs).astype(np.float32)).astype("<f4")


def write_int8(out: _Out, blocks: Blocks, name: str, group: int) -> None:
    """A matrix as int8 and then a scale for each group: those that it has already, or rounded here."""
    scales: list[Array] = []
    kept = blocks.int8(name, group)
    for values, scale in kept if kept is not None else (rounded(b, group) for b in blocks.floats(name, group)):
        out.write(values)
        scales.append(scale)
    for scale in scales:
        out.write(scale)


def rounded(block: Array, group: int) -> tuple[Array, Array]:
    """int8 to nearest even and the scale of each group, the largest magnitude / 127; 0 for a group of zeros."""
    groups = block.reshape(-1, group)
    scale = np.abs(groups).max(axis=1) / np.float32(127)
    values = np.rint(groups / np.where(scale == 0, np.float32(1), scale)[:, None])
    return values.astype(np.int8), scale.astype("<f4")


class _Out:
    def __init__(self, file: AtomicFile, total: int, progress: Progress | None) -> None:
        self.file, self.total, self.progress, self.done = file, total, progress, 0

    def write(self, data: bytes | Array) -> None:
        content = data if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        self.file.write(content)
        self.done += len(content)
        if self.progress:
            self.progress("writing", self.done, self.total)
