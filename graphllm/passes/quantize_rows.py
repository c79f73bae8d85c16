"""Products with int8 weights become products of integers: their activations are rounded to int8, a row at a time.

What ``--quantize int8-dynamic`` does after the weights are int8 (and all that an int8 checkpoint needs). Groups of
activations are those of the weights, so that a group's sum is one of integers: runq of llama2.c, and Q8_0 of llama.cpp,
do the same.

before:
    weight @w : i8[3,6]
    weight @s : f16[3,2]
    func @f(%x: f32[1,6]) {
      %m = dequantize @w, @s {group=4} : f32[3,6]
      %y = linear %x, %m : f32[1,3]
      return %y
    }
after:
    weight @w : i8[3,6]
    weight @s : f16[3,2]
    func @f(%x: f32[1,6]) {
      %x.int8, %x.scale = quantize_rows %x {group=4} : i8[1,6], f32[1,2]
      %y = linear_int8 %x.int8, %x.scale, @w, @s {group=4} : f32[1,3]
      return %y
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphllm.ir.builder import Builder
from graphllm.ir.core import Module, Operation, Value, Weight
from graphllm.ir.types import TensorType
from graphllm.passes.fold import Lifter
from graphllm.passes.pattern import Match
from graphllm.passes.rewrite import Rule, rewrite


def quantize_rows(module: Module) -> Module:
    """Multiply int8 weights by int8 activations, everywhere."""
    lifter = Lifter(module)

    def product(m: Match, b: Builder) -> Sequence[Value] | None:
        x, q, scale, group = m["x"], m["q"], m["scale"], int(str(m.op("dequantize").attrs["group"]))
        if isinstance(x, Weight) or x.type.dtype != "f32" or not isinstance(scale, Weight):
            return None
        if len(scale.type.shape) == 1:
            n, k = q.type.shape
            if k % group:
                return None  # groups straddle rows: there is no sum of integers to take
            scale = lifter.lift(_by_row(scale, n, k // group))
        rows = b.emit("quantize_rows", (x,), {"group": group}, f"{x.name}.int8,{x.name}.scale")
        return b.emit("linear_int8", (*rows, q, scale), {"group": group}, m.op("linear").result.name)

    rule = Rule("linear(x, dequantize(q, scale)) => linear_int8(quantize_rows(x), q, scale)", product, ("q", "scale"))
    rewritten = rewrite(module, (rule,))
    return replace(rewritten, weights=lifter.weights)


def _by_row(scale: Weight, n: int, groups: int) -> Operation:
    """Flat scales of groups that fill rows are a matrix already."""
    value = Value(f"{scale.name}.rows", TensorType(scale.type.dtype, (n, groups)))
    return Operation("reshape", (scale,), {"shape": (n, groups)}, (value,))
