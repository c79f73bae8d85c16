"""Products of one input become one product: q, k, v -> one; gate, up -> one. The weights are stacked, the result split.

A bias goes along. What the merged rows compute is what they computed apart.

before:
    weight @a : f32[4,6]
    weight @b : f32[2,6]
    func @f(%x: f32[1,6]) {
      %p = linear %x, @a : f32[1,4]
      %q = linear %x, @b : f32[1,2]
      return %p, %q
    }
after:
    weight @a : f32[4,6]
    weight @b : f32[2,6]
    func @f(%x: f32[1,6]) {
      %a_b = concat @a, @b : f32[6,6]
      %p_q = linear %x, %a_b : f32[1,6]
      %p, %q = split %p_q {sizes=[4,2]} : f32[1,4], f32[1,2]
      return %p, %q
    }
"""

from __future__ import annotations

from dataclasses import dataclass

from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.passes.rewrite import (
    constants,
    count_uses,
    is_constant,
    map_functions,
    names,
    rebuild,
    remap,
    with_names_given_back,
    without_dead,
)


def merge_linears(module: Module) -> Module:
    """Merge every set of products that read one input, constants apart, and agree on having a bias."""
    return map_functions(module, _merge)


@dataclass(frozen=True, slots=True)
class _Product:
    """``linear(x, w)`` or ``add(linear(x, w), bias)``: what it makes and of what."""

    product: Operation
    end: Operation
    x: Value
    w: Value
    bias: Value | None


def _merge(function: Function) -> Function:
    constant = constants(function)
    known: set[int] = set()
    early: list[Operation] = []  # constants first, so that a merged product finds all its weights defined
    rest: list[Operation] = []
    for op in function.ops:
        if is_constant(op, known):
            known.update(id(v) for v in op.results)
            early.append(op)
        else:
            rest.append(op)

    groups: dict[tuple[int, bool], list[_Product]] = {}
    for product in _products(function, constant):
        groups.setdefault((id(product.x), product.bias is not None), []).append(product)
    # the merged product stands where the first one stood: what it reads is there, nobody has asked for results yet
    variable = {id(op) for op in rest}
    lead = {id(g[0].product): g for g in groups.values() if len(g) > 1 and id(g[0].product) in variable}
    if not lead:
        return function
    replaced = {id(op) for group in lead.values() for p in group for op in (p.product, p.end)}

    builder = Builder()
    gone = {v.name for op in function.ops if id(op) in replaced for v in op.results}
    builder.reserve(name for name in names(function) if name not in gone)
    mapping: dict[int, Value] = {}
    for op in early:
        builder.append(op)
    for op in rest:
        if id(op) in lead:
            _emit(builder, lead[id(op)], mapping)
        elif id(op) not in replaced:
            builder.append(remap(op, mapping))
    return with_names_given_back(without_dead(rebuild(function, builder.ops, mapping)), builder.hints)


def _products(function: Function, constant: set[int]) -> list[_Product]:
    uses = count_uses(function)
    biased: dict[int, Operation] = {}  # product -> the addition of a bias that is its only reader
    for op in function.ops:
        if op.name != "add" or uses[id(op.operands[0])] != 1:
            continue
        bias = op.operands[1]
        if len(bias.type.shape) == 1 and _is_constant(bias, constant):
            biased[id(op.operands[0])] = op
    out: list[_Product] = []
    for op in function.ops:
        if op.name == "linear" and _is_constant(op.operands[1], constant):
            add = biased.get(id(op.result))
            out.append(_Product(op, add or op, op.operands[0], op.operands[1], add.operands[1] if add else None))
    return out


def _is_constant(value: Value, constant: set[int]) -> bool:
    return isinstance(value, Weight) or id(value) in constant


def _emit(b: Builder, group: list[_Product], mapping: dict[int, Value]) -> None:
    def stack(values: list[Value]) -> Value:
        return b.emit("concat", values, {}, joined_name([v.name for v in values]))[0]

    names = [p.end.result.name for p in group]
    x = mapping.get(id(group[0].x), group[0].x)
    (merged,) = b.emit("linear", (x, stack([p.w for p in group])), {}, joined_name(names))
    biases = [p.bias for p in group if p.bias is not None]
    if biases:
        (merged,) = b.emit("add", (merged, stack(biases)), {}, f"{merged.name}.biased")
    sizes = tuple(p.w.type.shape[0] for p in group)
    parts = b.emit("split", (merged,), {"sizes": sizes}, ",".join(names))
    mapping.update({id(p.end.result): part for p, part in zip(group, parts, strict=True)})


def joined_name(names: list[str]) -> str:
    """``l0.wq.interleaved``, ``l0.wk.interleaved`` -> ``l0.wq_wk``: their common scope, then what tells them apart."""
    scopes = {n.split(".", 1)[0] for n in names if "." in n}
    if len(scopes) != 1 or not all("." in n for n in names):
        return "_".join(names)
    return f"{scopes.pop()}.{'_'.join(n.split('.')[1] for n in names)}"
