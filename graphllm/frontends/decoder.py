"""The one decoder definition: Llama, Mistral, Mixtral, Qwen2 and Qwen3 by config flags.

Given arrays it computes a step, slowly; given IR values it records one. So it is at once the model, the tracer and the
oracle. Shapes: T rows, D model, H heads, K kv heads, d head size, F feed-forward, V vocabulary, R rows asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from graphllm.frontends.config import ModelConfig
from graphllm.ir.core import Value
from graphllm.ir.ops import (
    add,
    attention,
    attention_int8,
    cast,
    dequantize,
    embed,
    expert_linear,
    expert_sum,
    kv_write,
    linear,
    mul,
    quantize_rows,
    reshape,
    rmsnorm,
    rope,
    rope_frequencies,
    rotation,
    silu,
    take_rows,
    top_experts,
)

Tensor: TypeAlias = Any  # an IR value or an array, all of one kind in a call


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint's tensors by canonical name, read as f32 whatever they are stored in."""

    tensors: Mapping[str, Tensor]
    group: int = 0  # of int8 groups

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors[name]
        if f"{name}.scale" in self.tensors:
            return dequantize(tensor, self.tensors[f"{name}.scale"], group=self.group, name=f"{name}.f32")
        return tensor if _is_f32(tensor) else cast(tensor, dtype="f32", name=f"{name}.f32")

    def rows(self, ids: Tensor, name: str) -> Tensor:
        """f32 rows of an embedding table: gathered as they are stored, converted afterwards."""
        table = self.tensors[name]
        scale = self.tensors.get(f"{name}.scale")
        if scale is None:
            rows = embed(ids, table, name="x.stored" if not _is_f32(table) else "x")
            return rows if _is_f32(rows) else cast(rows, dtype="f32", name="x")
        if len(_shape(scale)) == 1:  # groups straddle rows
            return embed(ids, self[name], name="x")
        scale_rows = embed(ids, scale, name="x.scale")
        return dequantize(embed(ids, table, name="x.stored"), scale_rows, group=self.group, name="x")


def decode(
    config: ModelConfig,
    weights: Weights,
    caches: Mapping[str, Tensor],
    ids: Tensor,
    pos: Tensor,
    slot: Tensor,
    rows: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of T rows: logits [R,V] of the rows asked for (all of them without ``rows``) and the caches' new values.

    Args:
        caches: ``kv.<layer>.k`` and ``kv.<layer>.v`` [B,K,S,d]; int8 ones with ``….scale`` [B,K,S,1] for each.
        ids, pos, slot: i32 [T]; a row with pos < 0 is a blank.
        rows: i32 [R], which rows reach the final norm and the classifier.
    """
    c, t = config, _shape(ids)[0]
    eps = c.norm_eps
    new: dict[str, Tensor] = {}
    s = c.rope_scaling
    freqs = rope_frequencies(
        kind=s.kind,
        pairs=c.head_dim // 2,
        theta=c.rope_theta,
        factor=s.factor,
        original_context=s.original_context,
        low_freq_factor=s.low_freq_factor,
        high_freq_factor=s.high_freq_factor,
        beta_fast=s.beta_fast,
        beta_slow=s.beta_slow,
        truncate=s.truncate,
        name="rope.freqs",
    )
    turn = rotation(pos, freqs, scale=s.attention_factor, name="rope.turn")

    def project(x: Tensor, matrix: str, bias: str, name: str) -> Tensor:
        if bias not in weights:
            return linear(x, weights[matrix], name=name)
        return add(linear(x, weights[matrix], name=f"{name}.product"), weights[bias], name=name)

    x = weights.rows(ids, "tok_emb")
    for i in range(c.layers):
        p = f"l{i}."
        h = rmsnorm(x, weights[p + "att_norm"], eps=eps, name=p + "h")
        heads: dict[str, Tensor] = {}
        for part, n in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
            flat = project(h, f"{p}w{part}", f"{p}b{part}", f"{p}{part}.flat")
            heads[part] = reshape(flat, shape=(t, n, c.head_dim), name=f"{p}{part}")
            if c.qk_norm and part != "v":
                heads[part] = rmsnorm(heads[part], weights[f"{p}{part}_norm"], eps=eps, name=f"{p}{part}.normed")
        q = rope(heads["q"], turn, pairing=c.rope_pairing, name=p + "q.turned")
        k = rope(heads["k"], turn, pairing=c.rope_pairing, name=p + "k.turned")
        seen: list[Tensor] = []
        for part, name, row in (("k", "keys", k), ("v", "values", heads["v"])):
            cache = f"kv.{i}.{part}"
            if f"{cache}.scale" in caches:  # a scale for each head and position
                row, row_scale = quantize_rows(row, group=c.head_dim, name=f"{p}{part}.int8")
                new[cache] = kv_write(caches[cache], row, pos, slot, name=p + name)
                cache_scale = f"{cache}.scale"
                new[cache_scale] = kv_write(caches[cache_scale], row_scale, pos, slot, name=f"{p}{name}.scale")
                seen += [new[cache], new[cache_scale]]
            else:
                new[cache] = kv_write(caches[cache], row, pos, slot, name=p + name)
                seen.append(new[cache])
        attend = attention if len(seen) == 2 else attention_int8
        scale = 1 / math.sqrt(c.head_dim)
        a = attend(q, *seen, pos, slot, scale=scale, window=c.window(i), name=p + "att")
        a = reshape(a, shape=(t, c.heads * c.head_dim), name=p + "att.flat")
        x = add(x, project(a, p + "wo", p + "bo", p + "o"), name=p + "x.att")
        h = rmsnorm(x, weights[p + "ffn_norm"], eps=eps, name=p + "g")
        if c.experts:
            x = add(x, mixture(c, weights, h, p), name=p + "x.ffn")
            continue
        gate = silu(project(h, p + "w_gate", p + "b_gate", p + "gate"), name=p + "gate.silu")
        up = project(h, p + "w_up", p + "b_up", p + "up")
        ffn = mul(gate, up, name=p + "ffn")
        x = add(x, project(ffn, p + "w_down", p + "b_down", p + "down"), name=p + "x.ffn")
    if rows is not None:
        x = take_rows(x, rows, name="last")
    x = rmsnorm(x, weights["norm"], eps=eps, name="final")
    return linear(x, weights["tok_emb" if c.tied else "lm_head"], name="logits"), new


def mixture(c: ModelConfig, weights: Weights, h: Tensor, p: str) -> Tensor:
    """The feed-forward part of a layer with experts: rows [T,D] -> [T,D], each by the experts its router chose."""
    logits = linear(h, weights[p + "router"], name=p + "router.logits")
    ids, shares = top_experts(logits, used=c.experts_used, normalized=c.experts_normalized, name=p + "experts")
    gate = silu(expert_linear(h, weights[p + "x_gate"], ids, experts=c.experts, name=p + "gate"), name=p + "gate.silu")
    up = expert_linear(h, weights[p + "x_up"], ids, experts=c.experts, name=p + "up")
    ffn = mul(gate, up, name=p + "ffn")
    down = expert_linear(ffn, weights[p + "x_down"], ids, experts=c.experts, name=p + "down")
    return expert_sum(down, shares, name=p + "mixture")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tensor.type.shape if isinstance(tensor, Value) else tensor.shape


def _is_f32(tensor: Tensor) -> bool:
    # float64 arrays stand for f32 where the decoder serves as an oracle
    return tensor.type.dtype == "f32" if isinstance(tensor, Value) else str(tensor.dtype) in ("float32", "float64")
