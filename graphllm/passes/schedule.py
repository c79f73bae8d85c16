"""Fixes one order: among the operations whose operands are ready, the one that leaves the least memory in use next.

Ties keep the order of the program, so a chain stays a chain and the result does not depend on anything else.

before:
    func @f(%x: f32[1,64], %y: f32[1,64]) {
      %a = silu %x : f32[1,64]
      %b = silu %y : f32[1,64]
      %c = add %x, %a : f32[1,64]
      %d = add %b, %c : f32[1,64]
      return %d
    }
after:
    func @f(%x: f32[1,64], %y: f32[1,64]) {
      %a = silu %x : f32[1,64]
      %c = add %x, %a : f32[1,64]
      %b = silu %y : f32[1,64]
      %d = add %b, %c : f32[1,64]
      return %d
    }
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from graphllm.ir.core import Function, Module, Operation
from graphllm.passes.overwrites import readers_of_overwritten
from graphllm.passes.rewrite import map_functions, outputs


def schedule(module: Module) -> Module:
    """Reorder the operations of every function; kernels move whole."""
    return map_functions(module, _schedule)


def _schedule(function: Function) -> Function:
    made_by = {id(v): i for i, op in enumerate(function.ops) for v in op.results}
    readers = readers_of_overwritten(function.ops)
    waits = [
        {made_by[id(v)] for v in op.operands if id(v) in made_by} | readers.get(i, set())
        for i, op in enumerate(function.ops)
    ]
    feeds: dict[int, set[int]] = {i: set() for i in range(len(function.ops))}
    for i, wait in enumerate(waits):
        for j in wait:
            feeds[j].add(i)
    left = Counter(id(v) for op in function.ops for v in set(op.operands))
    left.update(id(v) for v in outputs(function))  # never freed
    local = set(made_by)

    def growth(op: Operation) -> int:
        """Bytes of activations in use after the operation, less those before."""
        made = sum(v.type.bytes for v in op.results)
        freed = sum(v.type.bytes for v in set(op.operands) if id(v) in local and left[id(v)] == 1)
        return made - freed

    ready = {i for i, wait in enumerate(waits) if not wait}
    order: list[int] = []
    while ready:
        i = min(ready, key=lambda i: (growth(function.ops[i]), i)) if len(ready) > 1 else next(iter(ready))
        ready.remove(i)
        order.append(i)
        left.subtract(id(v) for v in set(function.ops[i].operands))
        for j in feeds[i]:
            waits[j].discard(i)
            if not waits[j]:
                ready.add(j)
    if order == list(range(len(order))):
        return function
    return replace(function, ops=tuple(function.ops[i] for i in order))
