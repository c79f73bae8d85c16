"""What the runtime expects of a lowered module: which functions it has, what they take and what they give.

A module that verifies may still be no language model; a plan that holds one is refused here, before anything runs.
"""

from __future__ import annotations

import re
from typing import Final

from graphllm.errors import PlanError
from graphllm.ir.core import Function, Module
from graphllm.ir.types import TensorType

_NAME: Final = re.compile(r"decode|(decode|prefill|score)_([1-9][0-9]{0,8})")


def check_steps(module: Module) -> None:
    """Raise PlanError unless the module has ``decode``, a ``score_N`` and KV caches, of the shapes a step has."""
    decode = module.functions.get("decode")
    if decode is None or not any(name.startswith("score_") for name in module.functions):
        raise PlanError("module: has no step to run; expected the functions decode and score_N")
    if len(decode.results) != 1 or len(decode.results[0].type.shape) != 2:
        raise PlanError("func @decode: its results; expected logits f32[1,V] alone")
    vocab = decode.results[0].type.shape[1]
    for function in module.functions.values():
        _check(function, vocab)
    shapes = {(len(s.type.shape), s.type.shape[0], s.type.shape[2:3]) for s in module.states.values() if s.type.shape}
    if len(shapes) != 1 or next(iter(shapes))[0] != 4:
        raise PlanError("module: its states; expected caches [B,K,S,d], all of the same slots B and positions S")


def _check(function: Function, vocab: int) -> None:
    where = f"func @{function.name}"
    match = _NAME.fullmatch(function.name)
    if match is None:
        raise PlanError(f"{where}: no step of that name; expected decode, decode_N, prefill_N or score_N")
    kind, n = match[1] or "decode", int(match[2] or 1)
    last_only = kind == "prefill"
    ids = TensorType("i32", (n,))
    expected = {"ids": ids, "pos": ids, "slot": ids} | ({"rows": TensorType("i32", (1,))} if last_only else {})
    given = {v.name: v.type for v in function.inputs}
    if list(given.items()) != list(expected.items()):
        raise PlanError(f"{where}: its inputs; expected {_said(expected)}, got {_said(given)}")
    order = "independent" if kind == "decode" else "consecutive"
    if function.rows != order:
        raise PlanError(f"{where}: its rows; expected {order}, got {function.rows}")
    logits = TensorType("f32", (1 if last_only else n, vocab))
    if [v.type for v in function.results] != [logits]:
        results = ", ".join(str(v.type) for v in function.results) or "none"
        raise PlanError(f"{where}: its results; expected {logits}, got {results}")


def _said(types: dict[str, TensorType]) -> str:
    return ", ".join(f"%{name}: {type_}" for name, type_ in types.items()) or "none"
