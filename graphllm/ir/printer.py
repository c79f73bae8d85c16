"""Modules as text. One format only; ``ir.parser`` reads it back: ``print(parse(s)) == s`` and the other way round.

Result types are printed, operand types are not. Attributes stand in schema order, defaults are left out.
"""

from __future__ import annotations

import json

from graphllm.ir.core import Attr, Function, Module, Operation, Value, Weight
from graphllm.ir.opdef import lookup


def print_module(module: Module) -> str:
    """The whole module: weights, states, functions, one statement a line."""
    parts = [_weight(w) for w in module.weights.values()]
    parts += [f"state {s.ref} : {s.type}\n" for s in module.states.values()]
    parts += ["\n" * bool(parts or i) + print_function(f) for i, f in enumerate(module.functions.values())]
    return "".join(parts)


def print_function(function: Function) -> str:
    """One function, without the weights and states it names."""
    inputs = ", ".join(f"{v.ref}: {v.type}" for v in function.inputs)
    rows = " consecutive" if function.rows == "consecutive" else ""
    arena = f" arena {function.arena}" if function.arena is not None else ""
    lines = [f"func @{function.name}({inputs}){rows}{arena} {{"]
    for op in function.ops:
        lines += print_operation(op)
    results = [v.ref for v in function.results] + [f"{s.ref} = {v.ref}" for s, v in function.updates]
    lines.append(f"  return {', '.join(results)}".rstrip())
    lines.append("}\n")
    return "\n".join(lines)


def print_operation(op: Operation, indent: str = "  ") -> list[str]:
    """The operation's lines: one, or for a kernel its header, its body and its end."""
    results = ", ".join(v.ref for v in op.results)
    operands = ", ".join(v.ref for v in op.operands)
    scratch = f" scratch arena+{op.scratch[0]}:{op.scratch[1]}" if op.scratch else ""
    if op.body is None:
        types = ", ".join(map(_type_and_place, op.results))
        return [f"{indent}{results} = {op.name}{' ' + operands if operands else ''}{_attrs(op)} : {types}{scratch}"]
    lines = [f"{indent}kernel {json.dumps(op.template)} ({operands}) -> {results}{scratch} {{"]
    for inner in op.body.ops:
        lines += print_operation(inner, indent + "  ")
    lines.append(f"{indent}}}")
    return lines


def _weight(weight: Weight) -> str:
    text = f"weight {weight.ref} : {weight.type}"
    if weight.source:
        text += f" from {json.dumps(weight.source)}"
    if (op := weight.definition) is not None:
        operands = ", ".join(v.ref for v in op.operands)
        text += f" = {op.name}{' ' + operands if operands else ''}{_attrs(op)}"
    return text + "\n"


def _type_and_place(value: Value) -> str:
    return str(value.type) if value.arena is None else f"{value.type} in arena+{value.arena}"


def _attrs(op: Operation) -> str:
    schema = lookup(op.name).attrs
    shown = [f"{k}={print_attr(v)}" for k, v in op.attrs.items() if v != schema[k].default]
    return f" {{{', '.join(shown)}}}" if shown else ""


def print_attr(value: Attr) -> str:
    """An attribute's value as the parser reads it back."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case tuple():
            return f"[{','.join(map(str, value))}]"
        case _:
            return repr(value)
