"""Matrices become int8 groups with a scale each; ``dequantize`` in front of its reader keeps the meaning in sight.

Rounded once, at compile time, from what the checkpoint holds. Int8 groups that a checkpoint has already stay as they
are. What is kept, and how groups are cut, is a ``Quantization``.

before, with groups of 4:
    weight @w : f32[3,6]
    func @f(%x: f32[1,6]) {
      %y = linear %x, @w : f32[1,3]
      return %y
    }
after:
    weight @w : f32[3,6]
    weight @w.scale : f16[3,2] = group_scales @w {group=4, dtype="f16"}
    weight @w.int8 : i8[3,6] = quantize_groups @w, @w.scale {group=4}
    func @f(%x: f32[1,6]) {
      %w.f32 = dequantize @w.int8, @w.scale {group=4} : f32[3,6]
      %y = linear %x, %w.f32 : f32[1,3]
      return %y
    }
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final, Literal

from graphllm.errors import PassError
from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.ir.ops.int8 import groups_of
from graphllm.ir.types import FLOATS, TensorType
from graphllm.passes.fold import Lifter
from graphllm.passes.rewrite import names, rebuild, remap, with_names_given_back, without_dead

Mode = Literal["int8", "int8-dynamic"]
EMBEDDING: Final = "tok_emb"
CLASSIFIER: Final = "lm_head"


@dataclass(frozen=True, slots=True)
class Quantization:
    """How weights are rounded to int8.

    Attributes:
        mode: ``int8`` leaves activations as they are; ``int8-dynamic`` rounds them too, a row and group at a time.
        group: elements of K under one scale; 0 = a whole row.
        scale: what a scale is stored in, f16 or f32.
        keep: patterns of tensors that are not touched: part of a name, ``*`` for anything.
    """

    mode: Mode = "int8"
    group: int = 64
    scale: Literal["f16", "f32"] = "f16"
    keep: tuple[str, ...] = ()


def quantize_int8(module: Module, how: Quantization) -> Module:
    """Store every matrix that a product or an embedding reads as int8 groups, but those to be kept.

    Raises:
        PassError: a pattern of ``keep`` that no matrix answers to.
    """
    kept = _Kept(module, how.keep)
    lifter = Lifter(module)
    functions = {name: _quantize(f, how, kept, lifter) for name, f in module.functions.items()}
    kept.check()
    return replace(module, weights=lifter.weights, functions=functions)


class _Kept:
    """Which weights answer to a pattern, by the name of any tensor they are made of."""

    def __init__(self, module: Module, patterns: tuple[str, ...]) -> None:
        self.patterns = patterns
        self.known: dict[str, set[str]] = {}  # weight -> the names it answers to
        self.unused = set(patterns)
        for function in module.functions.values():
            for role, weight in _roles(function):
                self.names(weight).add(role)

    def names(self, weight: Weight) -> set[str]:
        return self.known.setdefault(weight.name, set(_names(weight)))

    def __call__(self, weight: Weight) -> bool:
        own = self.names(weight)
        found = {p for p in self.patterns if any(fnmatchcase(name, f"*{p}*") for name in own)}
        self.unused -= found
        return bool(found)

    def check(self) -> None:
        """Raise PassError for a pattern that nothing answered to: a slip of the pen would cost quality, silently."""
        if self.unused:
            some = sorted({name for known in self.known.values() for name in known})[:6]
            pattern = min(self.unused)
            raise PassError(f"keep: no matrix is called {pattern!r}; expected a part of a name, of {', '.join(some)} …")


def _roles(function: Function) -> Iterator[tuple[str, Weight]]:
    """What a matrix does, for models that use one as embedding and classifier."""
    stored = {id(op.result): op.operands[0] for op in function.ops if op.name == "cast"}
    for op in function.ops:
        matrix = stored.get(id(op.operands[1]), op.operands[1]) if op.name in ("linear", "embed") else None
        if isinstance(matrix, Weight):
            if op.name == "embed":
                yield EMBEDDING, matrix
            elif any(v is op.result for v in function.results):
                yield CLASSIFIER, matrix


def _names(weight: Weight) -> Iterator[str]:
    """Its own name, the checkpoint's, and those of all that it is made of."""
    yield weight.name
    if weight.source:
        yield weight.source
    for v in weight.definition.operands if weight.definition is not None else ():
        if isinstance(v, Weight):
            yield from _names(v)


def _quantize(function: Function, how: Quantization, kept: _Kept, lifter: Lifter) -> Function:
    builder = Builder()
    builder.reserve(names(function))
    widened: dict[int, Weight] = {}  # cast(@w) to f32 -> @w
    gathered: dict[int, Value] = {}  # rows of an embedding in their old type -> the same in f32
    mapping: dict[int, Value] = {}
    # A router is small, and a choice between two experts that it puts close together turns on little.
    routers = {id(op.operands[0]) for op in function.ops if op.name == "top_experts"}
    scales = {id(op.operands[1]) for op in function.ops if op.name == "dequantize"}  # of int8 that is there already

    def to_be_rounded(value: Value) -> Weight | None:
        weight = value if isinstance(value, Weight) else widened.get(id(value))
        return weight if weight is not None and weight.type.dtype in FLOATS and not kept(weight) else None

    for op in function.ops:
        op = remap(op, mapping)
        if op.name == "cast" and isinstance(op.operands[0], Weight) and op.result.type.dtype == "f32":
            widened[id(op.result)] = op.operands[0]
        if op.name in ("linear", "expert_linear") and op.result.type.dtype == "f32" and id(op.result) not in routers:
            weight = to_be_rounded(op.operands[1])
            if weight is not None:
                q, scale, group = _groups(weight, how, lifter)
                wide = builder.emit("dequantize", (q, scale), {"group": group}, f"{weight.name}.f32")[0]
                op = replace(op, operands=(op.operands[0], wide, *op.operands[2:]))
        elif op.name == "embed" and id(op.result) not in scales:
            weight = to_be_rounded(op.operands[1])
            if weight is not None:
                rows = _embed(builder, op, _groups(weight, how, lifter))
                if op.result.type.dtype != "f32":  # as it was stored; its readers widen it, as a rule
                    wide = rows
                    (rows,) = builder.emit("cast", (wide,), {"dtype": op.result.type.dtype})
                    gathered[id(rows)] = wide
                mapping[id(op.result)] = rows
                continue
        elif op.name == "cast" and op.result.type.dtype == "f32" and id(op.operands[0]) in gathered:
            mapping[id(op.result)] = gathered[id(op.operands[0])]
            continue
        builder.append(op)
    return with_names_given_back(without_dead(rebuild(function, builder.ops, mapping)), builder.hints)


def _groups(weight: Weight, how: Quantization, lifter: Lifter) -> tuple[Weight, Weight, int]:
    """(int8 elements, scales, size of a group) of a matrix."""
    n, k = weight.type.shape
    group = min(how.group, k) if how.group else k
    scales = TensorType(how.scale, (n, groups_of(k, group)))
    scale = lifter.lift(
        Operation(
            "group_scales",
            (weight,),
            {"group": group, "dtype": how.scale},
            (Value(f"{weight.name}.scale", scales),),
        )
    )
    q = Value(f"{weight.name}.int8", TensorType("i8", weight.type.shape))
    return lifter.lift(Operation("quantize_groups", (weight, scale), {"group": group}, (q,))), scale, group


def _embed(builder: Builder, op: Operation, groups: tuple[Weight, Weight, int]) -> Value:
    """Rows are gathered as they are stored, with their scales, and widened then."""
    ids, (q, scale, group) = op.operands[0], groups
    name = op.result.name.removesuffix(".stored")
    (rows,) = builder.emit("embed", (ids, q), {}, f"{name}.int8")
    (scales,) = builder.emit("embed", (ids, scale), {}, f"{name}.scale")
    return builder.emit("dequantize", (rows, scales), {"group": group}, name)[0]
