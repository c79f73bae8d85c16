"""What the runtime expects of a lowered module, checked before anything is allocated or generated.

The verifier knows the language; this knows what a plan's functions are for. A file may be valid IR and still no model:
other functions, inputs of other types, caches of two sizes. Whoever wrote it gets words, and the runtime need not ask.

    decode                     one row              independent    ids, pos, slot          -> logits [1,V]
    decode_N, 2 <= N <= B      a row a sequence     independent    ids, pos, slot          -> logits [N,V]
    prefill_N, N <= S          a piece of a prompt  consecutive    ids, pos, slot, rows    -> logits [1,V]
    score_N, N <= S            the same, all rows   consecutive    ids, pos, slot          -> logits [N,V]
    states                     the KV cache         f32, f16, bf16 or i8 [B,K,S,d], one B and one S for all
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn

from graphllm.errors import PlanError
from graphllm.ir.core import Function, Module, State
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.types import TensorType

MAX_CONTEXT: Final = 1 << 24  # positions are exact in f32 up to here
MAX_SLOTS: Final = 1024
_STEP: Final = re.compile(r"(decode)|(decode|prefill|score)_([1-9][0-9]{0,8})")


@dataclass(frozen=True, slots=True)
class _Sizes:
    slots: int
    context: int
    vocab: int


def check_interface(module: Module, where: str) -> None:
    """Raise PlanError ``where: func @x: …`` unless the runtime can run the module as a model."""
    slots, context = _caches(module, where)
    decode = module.functions.get("decode")
    if decode is None or not any(name.startswith("score_") for name in module.functions):
        got = ", ".join(module.functions) or "none"
        raise PlanError(f"{where}: functions; expected decode, a score_N and others, got {got}")
    results = decode.results
    vocab = results[0].type.shape[-1] if results and results[0].type.shape else 0
    for function in module.functions.values():
        _Checker(function, _Sizes(slots, context, vocab), f"{where}: func @{function.name}").check()


def _caches(module: Module, where: str) -> tuple[int, int]:
    """Slots and context."""
    sizes: tuple[int, int] | None = None
    for state in module.states.values():
        t, at = state.type, f"{where}: state {state.ref}"
        if len(t.shape) != 4 or t.dtype not in ("f32", "f16", "bf16", "i8"):
            raise PlanError(f"{at}: expected a KV cache, f32, f16, bf16 or i8 [B,K,S,d], got {t}")
        own = t.shape[0], t.shape[2]
        if own[0] > MAX_SLOTS or own[1] > MAX_CONTEXT:
            raise PlanError(f"{at}: expected at most {MAX_SLOTS} slots and {MAX_CONTEXT} positions, got {t}")
        if own != (sizes := sizes or own):
            raise PlanError(f"{at}: expected {sizes[0]} slots of {sizes[1]} positions as the others have, got {t}")
    if sizes is None:
        raise PlanError(f"{where}: no states; expected the KV cache of every layer")
    return sizes


class _Checker:
    """One function."""

    def __init__(self, function: Function, sizes: _Sizes, where: str) -> None:
        self.function, self.sizes, self.where = function, sizes, where

    def fail(self, message: str) -> NoReturn:
        raise PlanError(f"{self.where}: {message}")

    def check(self) -> None:
        match = _STEP.fullmatch(self.function.name)
        if match is None:
            self.fail("not a step that the runtime knows; expected decode, decode_N, prefill_N or score_N")
        kind, count = match[1] or match[2], int(match[3] or 1)
        most = self.sizes.slots if kind == "decode" else self.sizes.context
        if count > most or (kind == "decode" and match[3] == "1"):
            self.fail(f"{count} rows; expected {'2' if kind == 'decode' else '1'} to {most}")
        self.signature(kind, count)
        self.rows()

    def signature(self, kind: str, count: int) -> None:
        f = self.function
        t = TensorType("i32", (count,))
        inputs = [("ids", t), ("pos", t), ("slot", t), *([("rows", TensorType("i32", (1,)))] * (kind == "prefill"))]
        if [(v.name, v.type) for v in f.inputs] != inputs:
            got = ", ".join(f"{v.ref}: {v.type}" for v in f.inputs) or "none"
            self.fail(f"inputs; expected {', '.join(f'%{n}: {t}' for n, t in inputs)}, got {got}")
        order = "independent" if kind == "decode" else "consecutive"
        if f.rows != order:
            self.fail(f"rows; expected {order} ones, got {f.rows}")
        logits = TensorType("f32", (1 if kind == "prefill" else count, self.sizes.vocab))
        if [v.type for v in f.results] != [logits]:
            self.fail(f"results; expected {logits}, got {', '.join(str(v.type) for v in f.results) or 'none'}")
        if f.arena is not None and f.results[0].arena is None:
            self.fail(f"{f.results[0].ref}: the logits; expected a place of their own in the arena")

    def rows(self) -> None:
        """Caches are read and written where the step's own rows are, and nowhere else."""
        _, pos, slot, *_ = self.function.inputs
        caches: set[int] = set()  # later values of states
        for op in self.function.walk():
            if op.name == "kv_write":
                caches.add(id(op.result))
            elif op.name not in ATTENTION:
                continue
            if op.operands[-2] is not pos or op.operands[-1] is not slot:
                self.fail(f"{op.name} giving {op.result.ref}; expected the function's own %pos and %slot")
            read = op.operands[1:-2] if op.name in ATTENTION else op.operands[:1]
            if not all(isinstance(v, State) or id(v) in caches for v in read):
                self.fail(f"{op.name} giving {op.result.ref}; expected to work on a state, got another value")
