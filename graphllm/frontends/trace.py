"""Traces a model once for every step size, over shared weights and states.

Tracing is cheap, so there are no symbolic shapes: ``decode`` (one row), ``decode_2``, ``decode_4`` … (a row for each of
several sequences), ``prefill_8`` … (consecutive rows of one prompt, only the last of which reaches the classifier) and
``score_N`` (consecutive rows with all their logits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from graphllm.frontends.config import ModelConfig
from graphllm.frontends.decoder import Weights, decode
from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, State, Value, Weight
from graphllm.ir.types import DType, TensorType

KV_DTYPES: Final[tuple[DType, ...]] = ("f32", "f16", "bf16", "i8")


@dataclass(frozen=True, slots=True)
class Steps:
    """The step sizes and the memory a module is traced for."""

    context: int  # S: positions of the KV cache
    slots: int = 1  # B: sequences it holds
    kv_dtype: DType = "f32"  # or f16, bf16, or i8 with a scale for each head and position
    prefill: tuple[int, ...] = (8, 32, 128, 512)
    score: int = 32


def trace(config: ModelConfig, tensors: Mapping[str, Weight], group: int, steps: Steps) -> Module:
    """The module of a model.

    Args:
        tensors: the checkpoint's tensors by canonical name; ``group`` is the size of its int8 groups.
    """
    cache = TensorType(steps.kv_dtype, (steps.slots, config.kv_heads, steps.context, config.head_dim))
    # f32: a scale is 4 bytes beside a whole head, and an f16 has no room for those of outliers
    kinds = {"": cache, ".scale": TensorType("f32", (*cache.shape[:3], 1))} if cache.dtype == "i8" else {"": cache}
    states = {
        name: State(name, type_)
        for i in range(config.layers)
        for part in ("k", "v")
        for name, type_ in ((f"kv.{i}.{part}{kind}", type_) for kind, type_ in kinds.items())
    }
    functions: list[Function] = []

    def add(name: str, t: int, *, consecutive: bool, last_only: bool) -> None:
        with Builder() as b:
            ids, pos, slot = (b.input(n, TensorType("i32", (t,))) for n in ("ids", "pos", "slot"))
            rows: Value | None = b.input("rows", TensorType("i32", (1,))) if last_only else None
            logits, new = decode(config, Weights(tensors, group), states, ids, pos, slot, rows)
            updates = [(states[n], v) for n, v in new.items()]
            functions.append(b.function(name, [logits], updates, "consecutive" if consecutive else "independent"))

    add("decode", 1, consecutive=False, last_only=False)
    batch = 2
    while batch < 2 * steps.slots and steps.slots > 1:
        add(f"decode_{min(batch, steps.slots)}", min(batch, steps.slots), consecutive=False, last_only=False)
        batch *= 2
    for t in sorted({min(t, steps.context) for t in steps.prefill} - {1}):
        add(f"prefill_{t}", t, consecutive=True, last_only=True)
    score = min(steps.score, steps.context)
    add(f"score_{score}", score, consecutive=True, last_only=False)
    return Module(dict(tensors), states, {f.name: f for f in functions})
