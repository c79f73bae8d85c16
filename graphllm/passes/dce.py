"""What nothing reads is dropped: operations, and weights that no function and no other weight's definition reads.

before:
    weight @unused : f32[6]
    func @f(%x: f32[1,6]) {
      %a = silu %x : f32[1,6]
      %b = add %x, %x : f32[1,6]
      return %b
    }
after:
    func @f(%x: f32[1,6]) {
      %b = add %x, %x : f32[1,6]
      return %b
    }
"""

from __future__ import annotations

from dataclasses import replace

from graphllm.ir.core import Module, Weight
from graphllm.passes.rewrite import map_functions, outputs, without_dead


def dce(module: Module) -> Module:
    """Dead code elimination."""
    module = map_functions(module, without_dead)
    live: set[str] = set()
    pending = [v for f in module.functions.values() for op in f.walk() for v in op.operands]
    pending += [v for f in module.functions.values() for v in outputs(f)]
    while pending:
        value = pending.pop()
        if isinstance(value, Weight) and value.name not in live:
            live.add(value.name)
            if value.definition is not None:
                pending.extend(value.definition.operands)
    return replace(module, weights={name: w for name, w in module.weights.items() if name in live})
