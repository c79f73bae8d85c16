"""A checkpoint, whatever file it came from: a config and lazily mapped tensors under canonical names.

Canonical names (every matrix is ``[out, in]``, ``y = x @ W.T``):

    tok_emb [V,D]     norm [D]     lm_head [V,D] (absent when tied)
    l0.att_norm [D]   l0.wq [H*d,D]  l0.wk l0.wv [K*d,D]  l0.wo [D,H*d]    l0.bq l0.bk l0.bv l0.bo (biases)
    l0.q_norm l0.k_norm [d]
    l0.ffn_norm [D]   l0.w_gate l0.w_up [F,D]  l0.w_down [D,F]             l0.b_gate l0.b_up l0.b_down (biases)
    l0.router [E,D]   l0.x_gate l0.x_up [E*F,D]  l0.x_down [E*D,F]         (instead, where there are E experts)

A matrix that is stored as int8 groups has dtype ``i8`` and a companion ``<name>.scale``, f32 or f16: shape
``[N, K/G]`` when groups lie along rows, or flat ``[N*K/G]`` when they run over the row-major matrix and straddle rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig
from graphllm.frontends.mapped_file import MappedFile
from graphllm.plan.tokenizer_data import TokenizerData

StoredDType = Literal["f32", "f16", "bf16", "i8"]
COMPARED_BYTES = 1 << 20  # at a time, when asking whether two matrices are one


@dataclass(frozen=True, slots=True)
class TensorSource:
    """One tensor of a checkpoint, not read yet.

    ``read()`` returns an array of ``shape`` whose NumPy dtype is float32, float16, ``ml_dtypes.bfloat16`` or int8. It
    may be a view of the mapped file (read-only, possibly unaligned), so a caller that keeps it keeps the map.
    """

    source: str  # the name in the file, for provenance and messages
    dtype: StoredDType
    shape: tuple[int, ...]
    read: Callable[[], NDArray[Any]]
    read_rows: Callable[[int, int], NDArray[Any]] | None = None  # begin, end: where reading is more than a view

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """Rows ``begin`` to ``end`` along the first axis, without computing the others."""
        return self.read_rows(begin, end) if self.read_rows else self.read()[begin:end]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's config and tensors, by canonical name."""

    format: str  # "llama2.c v0", "huggingface", ...
    config: ModelConfig
    tensors: Mapping[str, TensorSource]
    files: tuple[Path, ...]  # everything read, for provenance
    maps: tuple[MappedFile, ...]  # what tensors are views of
    group: int = 0  # size of the int8 groups, 0 when nothing is int8
    tokenizer: TokenizerData | None = None  # where the checkpoint itself holds one (GGUF)
    notes: tuple[str, ...] = ()  # what the reader assumed, one line each
    sampling: Mapping[str, float] = field(default_factory=dict[str, float])  # settings that its makers advise
    extras: Mapping[str, TensorSource] = field(default_factory=dict[str, TensorSource])  # kept only to be copied

    def release(self) -> None:
        """Let go of what the maps hold in memory; pages that are needed again are read again.

        Whoever reads a whole model tensor by tensor calls this between them, or comes to hold all of it.
        """
        for file in self.maps:
            file.release()


def same_bytes(one: TensorSource, other: TensorSource) -> bool:
    """Whether two tensors are equal in dtype, shape and bits. The first block tells different ones apart."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (source.read().reshape(-1).view(np.uint8) for source in (one, other))
    blocks = range(0, first.size, COMPARED_BYTES)
    return all(np.array_equal(first[at : at + COMPARED_BYTES], second[at : at + COMPARED_BYTES]) for at in blocks)
