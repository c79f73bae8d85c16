"""The flat files of llama2.c and KuiperLLama as tables: which tensors, in which order, of which bytes.

A file is a header of sizes and then tensors back to back, each kind for all layers in turn. Readers and writers share
these tables, so that what one writes the other finds. Five layouts:

    llama2.c v0          f32, no magic, RoPE tables; KuiperLLama's plain f32 files are the same bytes
    llama2.c v1          f32, magic, other order, no tables
    llama2.c v2          int8 groups, magic; norms f32
    KuiperLLama Qwen2    as v0, each q, k, v matrix followed by its bias
    KuiperLLama int8     int8 groups but for embedding and norms, group size behind the sizes
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from graphllm.frontends.config import ModelConfig
from graphllm.frontends.sizes import tensor_shapes

FlatFormat = Literal["llama2.c v0", "llama2.c v1", "llama2.c v2", "KuiperLLama Qwen2", "KuiperLLama int8"]

MAGIC = 0x616B3432  # of v1 and v2
HEADER_BYTES: dict[FlatFormat, int] = {
    "llama2.c v0": 28,
    "llama2.c v1": 256,
    "llama2.c v2": 256,
    "KuiperLLama Qwen2": 28,
    "KuiperLLama int8": 32,
}
TABLES = "RoPE tables"  # cos and sin, always of base 1e4; every reader computes its own

_HEAD, _TAIL = ("tok_emb", "l.att_norm"), ("l.wo", "l.ffn_norm", "l.w_gate", "l.w_down", "l.w_up", "norm", TABLES)
_V1 = (
    *("l.att_norm", "l.ffn_norm", "norm", "tok_emb"),
    *("l.wq", "l.wk", "l.wv", "l.wo", "l.w_gate", "l.w_down", "l.w_up"),
)
# Tensors joined by + lie side by side within a layer.
_ORDERS: dict[FlatFormat, tuple[str, ...]] = {
    "llama2.c v0": (*_HEAD, "l.wq", "l.wk", "l.wv", *_TAIL, "lm_head"),
    "llama2.c v1": (*_V1, "lm_head"),
    "llama2.c v2": (*_V1, "lm_head"),
    "KuiperLLama Qwen2": (*_HEAD, "l.wq+l.bq", "l.wk+l.bk", "l.wv+l.bv", *_TAIL, "lm_head"),
    "KuiperLLama int8": (
        *("l.wq", "l.wk", "l.wv", "l.wo", "l.w_gate", "l.w_down", "l.w_up", "lm_head"),
        *("tok_emb", "l.att_norm", "l.ffn_norm", "norm"),
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a section. ``group``: int8 values, then one f32 scale for each so many of them; 0 for plain f32."""

    name: str  # canonical; "l." stands for every layer in turn
    shape: tuple[int, ...]
    group: int

    @property
    def stride(self) -> int:
        numel = prod(self.shape)
        return numel + numel // self.group * 4 if self.group else numel * 4

    def in_layer(self, layer: int) -> str:
        return f"l{layer}{self.name[1:]}" if self.name.startswith("l.") else self.name


@dataclass(frozen=True, slots=True)
class Section:
    """Tensors side by side, ``count`` times back to back: once for each layer, or once."""

    count: int
    parts: tuple[Part, ...]

    @property
    def stride(self) -> int:
        return sum(part.stride for part in self.parts)


def sections(config: ModelConfig, format: FlatFormat, group: int = 0) -> list[Section]:
    """A file's tensors in order. Cheap whatever the sizes, so that a size can be checked before it is believed."""
    with_bias = replace(config, layers=1, qkv_bias=format == "KuiperLLama Qwen2")
    shapes = tensor_shapes(with_bias) | {TABLES: (config.context * config.head_dim,)}
    rounded = group if format in ("llama2.c v2", "KuiperLLama int8") else 0
    made: list[Section] = []
    for names in _ORDERS[format]:
        if names == "lm_head" and config.tied:
            continue
        parts: list[Part] = []
        for name in names.split("+"):
            shape = shapes["l0" + name[1:] if name.startswith("l.") else name]
            plain = len(shape) < 2 or (name == "tok_emb" and format == "KuiperLLama int8")
            parts.append(Part(name, shape, 0 if plain else rounded))
        made.append(Section(config.layers if names.startswith("l.") else 1, tuple(parts)))
    return made


def file_bytes(config: ModelConfig, format: FlatFormat, group: int = 0) -> int:
    """The size of a whole file."""
    return HEADER_BYTES[format] + sum(s.count * s.stride for s in sections(config, format, group))


def placed(parts: list[Section]) -> Iterator[tuple[str, Part]]:
    """Every tensor in the order of the file, by its canonical name."""
    for section in parts:
        for layer in range(section.count):
            for part in section.parts:
                yield part.in_layer(layer), part


def undivided(config: ModelConfig, format: FlatFormat, group: int) -> Part | None:
    """The first tensor that groups of that size do not divide, if there is one."""
    parts = (part for section in sections(config, format, group) for part in section.parts)
    return next((part for part in parts if part.group and prod(part.shape) % group), None)
