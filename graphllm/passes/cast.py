"""Storage precision made explicit: the matrices of products and embeddings are kept in the dtype asked for.

Arithmetic stays f32: the matrix is rounded once, at compile time, and widened again where it is used.

before, with dtype bf16:
    weight @w : f32[4,6]
    func @f(%x: f32[1,6]) {
      %y = linear %x, @w : f32[1,4]
      return %y
    }
after:
    weight @w : f32[4,6]
    weight @w.bf16 : bf16[4,6] = cast @w {dtype="bf16"}
    func @f(%x: f32[1,6]) {
      %w.f32 = cast @w.bf16 {dtype="f32"} : f32[4,6]
      %y = linear %x, %w.f32 : f32[1,4]
      return %y
    }
"""

from __future__ import annotations

from dataclasses import replace

from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.ir.types import FLOATS, DType
from graphllm.passes.fold import Lifter
from graphllm.passes.rewrite import names, rebuild, remap, with_names_given_back, without_dead


def cast(module: Module, dtype: DType) -> Module:
    """Store every float matrix that a product or an embedding reads as ``dtype``; int8 groups stay as they are."""
    lifter = Lifter(module)
    functions = {name: _cast(f, dtype, lifter) for name, f in module.functions.items()}
    return replace(module, weights=lifter.weights, functions=functions)


def _cast(function: Function, dtype: DType, lifter: Lifter) -> Function:
    builder = Builder()
    builder.reserve(names(function))
    widened: dict[int, Weight] = {}  # cast(@w) to f32 -> @w
    gathered: dict[int, Value] = {}  # rows of an embedding in their old type -> the same as now stored
    mapping: dict[int, Value] = {}

    def stored(weight: Weight) -> Weight:
        return weight if weight.type.dtype == dtype else lifter.lift(_cast_op(weight, dtype, f"{weight.name}.{dtype}"))

    def read(value: Value) -> Value:
        weight = value if isinstance(value, Weight) else widened.get(id(value))
        if weight is None or value.type.dtype != "f32" or weight.type.dtype == dtype:
            return value  # an activation, int8 groups, a product in another precision, or as it should be
        new = stored(weight)
        return new if dtype == "f32" else builder.emit("cast", (new,), {"dtype": "f32"}, f"{weight.name}.f32")[0]

    for op in function.ops:
        op = remap(op, mapping)
        if op.name == "cast" and isinstance(op.operands[0], Weight):
            widened[id(op.result)] = op.operands[0]
        if op.name in ("linear", "expert_linear"):
            x, w, *rest = op.operands
            op = replace(op, operands=(x, read(w), *rest))
        elif op.name == "embed" and _is_to_cast(table := op.operands[1], dtype):
            assert isinstance(table, Weight)
            _embed(builder, op, stored(table), mapping, gathered)
            continue
        elif op.name == "cast" and id(op.operands[0]) in gathered:  # once, not by way of the old type
            rows = gathered[id(op.operands[0])]
            wanted = op.result.type.dtype
            mapping[id(op.result)] = (
                rows if rows.type.dtype == wanted else builder.emit("cast", (rows,), op.attrs, op.result.name)[0]
            )
            continue
        builder.append(op)
    return with_names_given_back(without_dead(rebuild(function, builder.ops, mapping)), builder.hints)


def _is_to_cast(table: Value, dtype: DType) -> bool:
    return isinstance(table, Weight) and table.type.dtype in FLOATS and table.type.dtype != dtype


def _embed(
    builder: Builder, op: Operation, table: Weight, mapping: dict[int, Value], gathered: dict[int, Value]
) -> None:
    """Rows are gathered as stored, then brought to the type they had."""
    (stored,) = builder.emit("embed", (op.operands[0], table), {}, f"{op.result.name.removesuffix('.stored')}.stored")
    (rows,) = builder.emit("cast", (stored,), {"dtype": op.result.type.dtype}, op.result.name)
    mapping[id(op.result)] = rows
    gathered[id(rows)] = stored


def _cast_op(weight: Weight, dtype: DType, name: str) -> Operation:
    result = Value(name, replace(weight.type, dtype=dtype))
    return Operation("cast", (weight,), {"dtype": dtype}, (result,))
