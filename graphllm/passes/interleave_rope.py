"""One RoPE layout for every target: interleaved pairs, whatever the checkpoint used.

The rows of a half-split projection (and its bias, and the norm of its heads) are permuted once, at compile time. Every
score stays what it was: q and k are permuted alike, so their products are the same sums in another order.

before:
    weight @wq : f32[8,6]
    func @f(%x: f32[1,6], %turn: f32[1,2,2]) {
      %flat = linear %x, @wq : f32[1,8]
      %q = reshape %flat {shape=[1,2,4]} : f32[1,2,4]
      %t = rope %q, %turn {pairing="half"} : f32[1,2,4]
      return %t
    }
after:
    weight @wq : f32[8,6]
    func @f(%x: f32[1,6], %turn: f32[1,2,2]) {
      %wq.interleaved = interleave @wq {heads=2} : f32[8,6]
      %flat_1 = linear %x, %wq.interleaved : f32[1,8]
      %q_1 = reshape %flat_1 {shape=[1,2,4]} : f32[1,2,4]
      %t_1 = rope %q_1, %turn {pairing="interleaved"} : f32[1,2,4]
      return %t_1
    }
"""

from __future__ import annotations

from collections.abc import Sequence

from graphllm.ir.builder import Builder
from graphllm.ir.core import Module, Value
from graphllm.passes.pattern import Match
from graphllm.passes.rewrite import Rule, rewrite


def interleave_rope(module: Module) -> Module:
    """Turn every half-split rope whose projection is in sight into an interleaved one."""
    return rewrite(module, RULES)


def _build(m: Match, b: Builder) -> Sequence[Value] | None:
    rope, reshape, linear = m.op("rope"), m.op("reshape"), m.op("linear")
    t, heads, d = reshape.result.type.shape
    if rope.attrs["pairing"] != "half" or heads * d != linear.result.type.shape[-1] or t != linear.result.type.shape[0]:
        return None

    def permuted(value: Value, heads: int) -> Value:
        return b.emit("interleave", (value,), {"heads": heads}, f"{value.name}.interleaved")[0]

    (x,) = b.emit("linear", (m["x"], permuted(m["w"], heads)), {}, linear.result.name)
    if "bias" in m.values:
        (x,) = b.emit("add", (x, permuted(m["bias"], heads)), {}, m.op("add").result.name)
    (x,) = b.emit("reshape", (x,), reshape.attrs, reshape.result.name)
    if "gain" in m.values:
        norm = m.op("rmsnorm")
        (x,) = b.emit("rmsnorm", (x, permuted(m["gain"], 1)), norm.attrs, norm.result.name)
    return b.emit("rope", (x, m["turn"]), {"pairing": "interleaved"}, rope.result.name)


# The equations leave out what every one of them does: the pairing changes, w' bias' gain' are permuted rows.
RULES = (
    Rule("rope(reshape(linear(x, w)), turn) => rope(reshape(linear(x, w')), turn)", _build),
    Rule("rope(reshape(add(linear(x, w), bias)), turn) => rope(reshape(add(linear(x, w'), bias')), turn)", _build),
    Rule(
        "rope(rmsnorm(reshape(linear(x, w)), gain), turn) => rope(rmsnorm(reshape(linear(x, w')), gain'), turn)", _build
    ),
    Rule(
        "rope(rmsnorm(reshape(add(linear(x, w), bias)), gain), turn)"
        " => rope(rmsnorm(reshape(add(linear(x, w'), bias')), gain'), turn)",
        _build,
    ),
)
