"""Products of a prompt's many rows with bf16 weights take their activations as bf16 too; sums stay f32.

That is how machines multiply two bf16 at a time. Only where a target asks for it (``Target.narrow_rows``),
and only in steps that report on fewer rows than they have: those that score every row stay exact. An activation keeps
8 bits, what its weights have; the meaning is in the text, and a machine without such an instruction computes the same.

before, for more than 8 rows:
    weight @w : bf16[4,6]
    func @f(%x: f32[9,6], %rows: i32[1]) {
      %w.f32 = cast @w {dtype="f32"} : f32[4,6]
      %y = linear %x, %w.f32 : f32[9,4]
      %last = take_rows %y, %rows : f32[1,4]
      return %last
    }
after:
    weight @w : bf16[4,6]
    func @f(%x: f32[9,6], %rows: i32[1]) {
      %x.bf16 = cast %x {dtype="bf16"} : bf16[9,6]
      %y = linear %x.bf16, @w {out="f32"} : f32[9,4]
      %last = take_rows %y, %rows : f32[1,4]
      return %last
    }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Value, Weight
from graphllm.passes.pattern import Match
from graphllm.passes.rewrite import Rule, rewrite


def narrow_rows(module: Module, few: int) -> Module:
    """Round activations of products of more than ``few`` rows with bf16 weights."""
    functions = {name: _narrowed(module, f, few) if _is_prompt(f) else f for name, f in module.functions.items()}
    return replace(module, functions=functions)


def _is_prompt(function: Function) -> bool:
    """Whether a step reports on fewer rows than it has."""
    rows = max((v.type.shape[0] for v in function.inputs if v.type.shape), default=0)
    return all(v.type.shape and v.type.shape[0] < rows for v in function.results)


def _narrowed(module: Module, function: Function, few: int) -> Function:
    def product(m: Match, b: Builder) -> Sequence[Value] | None:
        x, w = m["x"], m["w"]
        if x.type.dtype != "f32" or w.type.dtype != "bf16" or x.type.shape[0] <= few or isinstance(x, Weight):
            return None
        (narrow,) = b.emit("cast", (x,), {"dtype": "bf16"}, f"{x.name}.bf16")
        return b.emit("linear", (narrow, w), {"out": "f32"}, m.op("linear").result.name)

    rule = Rule("linear(x, cast(w)) => linear(cast(x), w)", product, ("w",))
    one = rewrite(replace(module, functions={function.name: function}), (rule,))
    return one.functions[function.name]
