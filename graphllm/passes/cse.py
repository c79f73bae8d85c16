"""Equal operations on equal operands are computed once.

before:
    func @f(%x: f32[1,6]) {
      %a = silu %x : f32[1,6]
      %b = silu %x : f32[1,6]
      %y = mul %a, %b : f32[1,6]
      return %y
    }
after:
    func @f(%x: f32[1,6]) {
      %a = silu %x : f32[1,6]
      %y = mul %a, %a : f32[1,6]
      return %y
    }
"""

from __future__ import annotations

from graphllm.ir.core import Function, Module, Operation, Value
from graphllm.ir.opdef import lookup
from graphllm.passes.rewrite import map_functions, rebuild, remap


def cse(module: Module) -> Module:
    """Common subexpression elimination. Writes to states are left alone: each is an event."""
    return map_functions(module, _cse)


def _cse(function: Function) -> Function:
    mapping: dict[int, Value] = {}
    seen: dict[tuple[object, ...], Operation] = {}
    kept: list[Operation] = []
    for op in function.ops:
        op = remap(op, mapping)
        if op.body is None and lookup(op.name).updates is None:
            key = (op.name, tuple(map(id, op.operands)), tuple(op.attrs.items()))
            first = seen.setdefault(key, op)
            if first is not op:
                mapping.update({id(old): new for old, new in zip(op.results, first.results, strict=True)})
                continue
        kept.append(op)
    return rebuild(function, kept, mapping) if mapping else function
