"""Picks a part of a module to look at: one function, one layer, and only the weights and states that part touches."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from graphllm.errors import GraphLLMError
from graphllm.ir.core import Function, Module, State, Value, Weight
from graphllm.ir.printer import print_module
from graphllm.view.scope import layers_of


def select(module: Module, function: str | None, layer: int | None) -> Module:
    """The part of a module that belongs to a function, a layer, or both; everything where both are None.

    Not a valid module: a layer's operands come from operations left out.

    Weights keep the ones they are computed from beside them. A layer's results are the function's that it makes.

    Raises:
        GraphLLMError: there is no such function or layer; names what there is.
    """
    if function is None and layer is None:
        return module
    chosen = [pick_function(module, function)] if function is not None else list(module.functions.values())
    if layer is not None:
        known = sorted({i for f in chosen for op in f.ops for i in layers_of(op)})
        if layer not in known:
            where = f"layer {layer}" if function is None else f"layer {layer} of func @{function}"
            raise GraphLLMError(f"{where}: no such layer; expected {_ranges(known)}, got {layer}")
        chosen = [_only_layer(f, layer) for f in chosen if any(layer in layers_of(op) for op in f.ops)]
    touched: dict[int, Value] = {}
    for f in chosen:
        values = [v for op in f.walk() for v in op.operands]
        for v in (*values, *f.results, *(s for s, _ in f.updates)):
            _touch(v, touched)
    return Module(
        {n: w for n, w in module.weights.items() if id(w) in touched},
        {n: s for n, s in module.states.items() if id(s) in touched},
        {f.name: f for f in chosen},
    )


def print_selection(module: Module, function: str | None, layer: int | None) -> str:
    """The chosen part as IR text; see ``select``."""
    return print_module(select(module, function, layer))


def pick_function(module: Module, name: str) -> Function:
    """The function of that name. Raises GraphLLMError naming those there are."""
    found = module.functions.get(name)
    if found is None:
        raise GraphLLMError(f"func @{name}: no such function; expected {_listed(module.functions)}, got {name!r}")
    return found


def _only_layer(function: Function, layer: int) -> Function:
    ops = tuple(op for op in function.ops if layer in layers_of(op))
    made = {id(v) for op in ops for v in op.results}
    return replace(
        function,
        ops=ops,
        results=tuple(v for v in function.results if id(v) in made),
        updates=tuple((s, v) for s, v in function.updates if id(v) in made),
    )


def _touch(value: Value, touched: dict[int, Value]) -> None:
    """Note a constant and, for a computed weight, what it is computed from."""
    pending = [value]
    while pending:
        v = pending.pop()
        if isinstance(v, (Weight, State)) and id(v) not in touched:
            touched[id(v)] = v
            if isinstance(v, Weight) and v.definition is not None:
                pending.extend(v.definition.operands)


def _listed(names: Collection[str]) -> str:
    return "one of " + ", ".join(names) if names else "none: the module has no functions"


def _ranges(numbers: list[int]) -> str:
    """``0 to 21``, ``0, 2 to 5``: sorted numbers as people say them."""
    if not numbers:
        return "none: its names carry no layers"
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], n]
        else:
            spans.append([n])
    return ", ".join(" to ".join(map(str, span)) for span in spans)
