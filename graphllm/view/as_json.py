"""A module as plain data for other tools. ``version`` grows when a field changes or goes; fields may be added.

    version     int
    weights     [{name, type, bytes, source?, definition?: {op, operands, attrs}}]
    states      [{name, type, bytes}]
    functions   [{name, rows, inputs: [value], results: [ref], updates: [{state, value: ref}], ops: [operation],
                  steps, flops, bytes, arena?}]
    operation   {id, kind: "op", op, operands: [ref], attrs, results: [value], flops, bytes?, step, scratch?}
                {id, kind: "kernel", template, operands: [ref], results: [ref], flops, bytes, scratch?,
                 ops: [operation]}
    value       {name, type: {dtype, shape}, bytes, arena?, lifetime?: {first, last}}
    ref         "%name" of a value, "@name" of a weight or state; scratch is {offset, bytes}

``id`` is unique in its function and counts in program order. ``step`` counts table operations, lifetimes are in steps
(both ends inclusive, the return being one past the last) and belong to values with memory of their own. ``bytes`` of an
operation is what it moves; those inside a kernel move nothing of their own.
"""

from __future__ import annotations

from typing import Any, Final

from graphllm.ir.core import Attrs, Function, Module, Operation, State, Value, Weight
from graphllm.ir.cost import kernel_bytes, op_flops, step_bytes, step_flops
from graphllm.ir.lifetime import Lifetimes

VERSION: Final = 1

Json = dict[str, Any]


def module_json(module: Module) -> Json:
    """The module as dictionaries, lists, strings and numbers. Same module, same data."""
    return {
        "version": VERSION,
        "weights": [_weight(w) for w in module.weights.values()],
        "states": [_constant(s) for s in module.states.values()],
        "functions": [_Writer(f).json() for f in module.functions.values()],
    }


def _constant(v: Weight | State) -> Json:
    return {"name": v.name, "type": _type(v), "bytes": v.type.bytes}


def _weight(weight: Weight) -> Json:
    out = _constant(weight)
    if weight.source:
        out["source"] = weight.source
    if (op := weight.definition) is not None:
        out["definition"] = {"op": op.name, "operands": [v.ref for v in op.operands], "attrs": _attrs(op.attrs)}
    return out


class _Writer:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.lifetimes = Lifetimes.of(function)
        self.owners = {id(b.root): b for b in self.lifetimes.blocks}
        self.ids = self.steps = 0

    def json(self) -> Json:
        f = self.function
        out: Json = {
            "name": f.name,
            "rows": f.rows,
            "inputs": [self.value(v) for v in f.inputs],
            "results": [v.ref for v in f.results],
            "updates": [{"state": s.ref, "value": v.ref} for s, v in f.updates],
            "flops": step_flops(f),
            "bytes": step_bytes(f),
            "ops": [self.operation(op, inside=False) for op in f.ops],
            "steps": self.steps,
        }
        if f.arena is not None:
            out["arena"] = f.arena
        return out

    def operation(self, op: Operation, *, inside: bool) -> Json:
        out: Json = {"id": self.ids}
        self.ids += 1
        operands = [v.ref for v in op.operands]
        if op.body is not None:
            out |= {"kind": "kernel", "template": op.template, "operands": operands}
            out |= {"results": [v.ref for v in op.results], "flops": sum(map(op_flops, op.body.ops))}
            out |= {"bytes": kernel_bytes(op), "ops": [self.operation(o, inside=True) for o in op.body.ops]}
        else:
            out |= {"kind": "op", "op": op.name, "operands": operands, "attrs": _attrs(op.attrs)}
            out |= {"results": [self.value(v) for v in op.results], "flops": op_flops(op), "step": self.steps}
            if not inside:
                out["bytes"] = kernel_bytes(op)
            self.steps += 1
        if op.scratch is not None:
            out["scratch"] = {"offset": op.scratch[0], "bytes": op.scratch[1]}
        return out

    def value(self, v: Value) -> Json:
        out: Json = {"name": v.name, "type": _type(v), "bytes": v.type.bytes}
        if v.arena is not None:
            out["arena"] = v.arena
        if (block := self.owners.get(id(v))) is not None:
            out["lifetime"] = {"first": block.first, "last": block.last}
        return out


def _type(v: Value) -> Json:
    return {"dtype": v.type.dtype, "shape": list(v.type.shape)}


def _attrs(attrs: Attrs) -> Json:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in attrs.items()}
