"""Data movement goes below conversions: a permuted or stacked dequantised weight is a dequantised permuted one.

Then ``fold`` can do the movement once, on the small stored tensor, and the conversion stays where it is needed.

before:
    weight @a : bf16[2,6]
    weight @b : bf16[4,6]
    func @f(%x: f32[1,6]) {
      %p = cast @a {dtype="f32"} : f32[2,6]
      %q = cast @b {dtype="f32"} : f32[4,6]
      %w = concat %p, %q : f32[6,6]
      %y = linear %x, %w : f32[1,6]
      return %y
    }
after:
    weight @a : bf16[2,6]
    weight @b : bf16[4,6]
    func @f(%x: f32[1,6]) {
      %w.stored = concat @a, @b : bf16[6,6]
      %w = cast %w.stored {dtype="f32"} : f32[6,6]
      %y = linear %x, %w : f32[1,6]
      return %y
    }
"""

from __future__ import annotations

from collections.abc import Sequence

from graphllm.ir.builder import Builder
from graphllm.ir.core import Module, Value
from graphllm.passes.pattern import Match
from graphllm.passes.rewrite import Rule, rewrite

_MOST_STACKED = 4  # q, k, v and one to spare


def sink_conversions(module: Module) -> Module:
    """Move interleave and concat to the stored side of cast and dequantize."""
    return rewrite(module, RULES)


def _interleave_cast(m: Match, b: Builder) -> Sequence[Value]:
    move, cast = m.op("interleave"), m.op("cast")
    moved = b.emit("interleave", (m["x"],), move.attrs, f"{move.result.name}.stored")
    return b.emit("cast", moved, cast.attrs, move.result.name)


def _interleave_dequantize(m: Match, b: Builder) -> Sequence[Value] | None:
    move, dequantize = m.op("interleave"), m.op("dequantize")
    if len(m["scale"].type.shape) == 1:
        return None  # groups straddle rows: the rows cannot be moved apart
    (q,) = b.emit("interleave", (m["q"],), move.attrs, f"{move.result.name}.stored")
    (scale,) = b.emit("interleave", (m["scale"],), move.attrs, f"{move.result.name}.scale")
    return b.emit("dequantize", (q, scale), dequantize.attrs, move.result.name)


def _concat(conversion: str, n: int) -> Rule:
    parts = ("x",) if conversion == "cast" else ("q", "scale")
    inner = [f"{conversion}({', '.join(f'{p}{i}' for p in parts)})" for i in range(n)]

    def build(m: Match, b: Builder) -> Sequence[Value] | None:
        name = m.op("concat").result.name
        rows = [tuple(m[f"{p}{i}"] for p in parts) for i in range(n)]
        stored_alike = len({tuple((v.type.dtype, v.type.shape[1:]) for v in row) for row in rows}) == 1
        if not stored_alike or any(op.attrs != m.op(conversion).attrs for op in m.found[conversion]):
            return None
        stacked = [
            b.emit("concat", column, {}, f"{name}.{part if part == 'scale' else 'stored'}")[0]
            for part, column in zip(parts, zip(*rows, strict=True), strict=True)
        ]
        return b.emit(conversion, stacked, m.op(conversion).attrs, name)

    return Rule(f"concat({', '.join(inner)}) => {conversion}(concat(…))", build)


RULES = (
    Rule("interleave(cast(x)) => cast(interleave(x))", _interleave_cast),
    Rule("interleave(dequantize(q, scale)) => dequantize(interleave(q), interleave(scale))", _interleave_dequantize),
    *(_concat(conversion, n) for conversion in ("cast", "dequantize") for n in range(2, _MOST_STACKED + 1)),
)
