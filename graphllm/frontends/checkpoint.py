"""A checkpoint, whatever file it came from: a config and lazily mapped tensors under canonical names.

Canonical names (every matrix is ``[out, in]``, ``y = x @ W.T``):

    tok_emb [V,D]     norm [D]     lm_head [V,D] (absent when tied)
    l0.att_norm [D]   l0.wq [H*d,D]  l0.wk l0.wv [K*d,D]  l0.wo [D,H*d]    l0.bq l0.bk l0.bv l0.bo (biases)
    l0.q_norm l0.k_norm [d]
    l0.ffn_norm [D]   l0.w_gate l0.w_up [F,D]  l0.w_down [D,F]             l0.b_gate l0.b_up l0.b_down (biases)

A matrix that is stored as int8 groups has dtype ``i8`` and a companion ``<name>.scale`` in f32: shape ``[N, K/G]`` when
groups lie along rows, or flat ``[N*K/G]`` when they run over the row-major matrix and straddle rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig

StoredDType = Literal["f32", "f16", "bf16", "i8"]


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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model's config and tensors, by canonical name."""

    format: str  # "llama2.c v0", "huggingface", ...
    config: ModelConfig
    tensors: Mapping[str, TensorSource]
    files: tuple[Path, ...]  # everything read, for provenance
    group: int = 0  # size of the int8 groups, 0 when nothing is int8
    notes: tuple[str, ...] = ()  # what the reader assumed, one line each
