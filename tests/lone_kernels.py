"""Kernels by themselves, for whoever proves a code generator: each kernel of a lowered function with what it reads, and
lone operations at odd sizes. Inputs are random; what no row may see is NaN."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir import ops
from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Operation, State, Value, Weight
from graphllm.ir.opdef import lookup
from graphllm.ir.printer import print_operation
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType

Array = NDArray[Any]
TOLERANCE = 2e-5  # of the largest result: f32 rounding over sums of at most a few hundred terms
FLIP_TOLERANCE = 2e-3  # an activation that falls between two int8 may go to the one in f32 and to the other in f64
ROUNDED = {"f16": 1e-3, "bf16": 2**-7}  # one unit of what a value was rounded to


def fresh(rng: np.random.Generator, type_: TensorType) -> Array:
    if type_.dtype == "i8":
        return rng.integers(-127, 128, type_.shape, np.int8)
    return rng.standard_normal(type_.shape).astype(NUMPY_DTYPES[type_.dtype])


def positions(rng: np.random.Generator, function: Function, context: int, slots: int) -> tuple[list[int], list[int]]:
    """Positions and slots of a step's rows as its caller may choose them; -1 for rows that are not there."""
    count = next((v.type.shape[0] for v in function.inputs if v.name == "pos"), 1)
    if function.rows == "consecutive" and count > 1:
        live = int(rng.integers(1, min(count, context) + 1))
        start = int(rng.integers(0, context - live + 1))
        return [*range(start, start + live), *[-1] * (count - live)], [int(rng.integers(slots))] * count
    live = count if count == 1 else int(rng.integers(1, min(count, slots) + 1))
    which = rng.permutation(slots)[:live].tolist()
    return [*rng.integers(0, context, live).tolist(), *[-1] * (count - live)], [*which, *[0] * (count - live)]


def caches(rng: np.random.Generator, states: Iterable[State], pos: list[int], slot: list[int]) -> dict[str, Array]:
    """Random up to each row's position; wherever no row may look NaN, or a number that int8 rows do not have."""
    out: dict[str, Array] = {}
    for state in states:
        whole = state.type.dtype == "i8"
        out[state.name] = np.full(state.type.shape, -128 if whole else np.nan, state.type.numpy)
        for p, s in zip(pos, slot, strict=True):
            seen = out[state.name][s, :, : p + 1]
            seen[...] = rng.integers(-127, 128, seen.shape) if whole else rng.standard_normal(seen.shape)
    return out


def close(got: Array, want: Array, dtype: DType, what: str) -> None:
    seen = ~np.isnan(want)
    assert not np.isnan(got.astype(np.float64)[seen]).any(), f"{what}: NaN reached it"
    assert np.isnan(got.astype(np.float64)[~seen]).all(), f"{what}: written where nothing was to be"
    if dtype == "i8":  # a number near half a step may be rounded either way
        apart = np.abs(got.astype(int) - want)
        assert apart.max(initial=0) <= 1, f"{what}: off by {apart.max()}"
        assert np.count_nonzero(apart) <= 1 + got.size // 1000, f"{what}: {np.count_nonzero(apart)} of {got.size} off"
        return
    if dtype == "i32":
        np.testing.assert_array_equal(got, want)
        return
    tolerance = FLIP_TOLERANCE if "linear_int8" in what else ROUNDED.get(dtype, TOLERANCE)
    bound = tolerance * max(np.abs(want[seen]).max(initial=0), 1e-3)
    worst = np.abs(got.astype(np.float64) - want)[seen].max(initial=0)
    assert worst <= bound, f"{what}: off by {worst}, bound {bound}"


def alone(function: Function) -> Iterator[Function]:
    """Each kernel of a function as a function: its operands stay where they are, windows are looked through again."""
    windows: dict[int, Operation] = {}
    for kernel in function.ops:
        body = kernel.body.ops if kernel.body is not None else (kernel,)
        views: dict[int, Operation] = {}
        pending = list(kernel.operands)
        while pending:
            view = windows.get(id(pending.pop()))
            if view is not None and id(view) not in views:
                views[id(view)] = view
                pending += view.operands
        in_order = [op for op in windows.values() if id(op) in views]
        own = [
            v for v in kernel.results if not any(lookup(o.name).updates is not None and v in o.results for o in body)
        ]
        updates: list[tuple[State, Value]] = []
        for op in body:
            if op.name == "kv_write" and isinstance(op.operands[0], State):
                updates.append((op.operands[0], op.result))
        written = {id(v): s for s, v in function.updates}
        reads = {id(v): written[id(v)] for v in kernel.operands if id(v) in written}
        if reads:  # caches that earlier kernels have written are states here
            kernel = with_operands(kernel, reads)
        # the first result of a split stands for all of them
        yield replace(function, ops=(*dict.fromkeys(in_order), kernel), results=tuple(own), updates=tuple(updates))
        for op in body:
            if lookup(op.name).views is not None:
                windows.update({id(v): op for v in op.results})


def with_operands(kernel: Operation, mapping: Mapping[int, State]) -> Operation:
    def mapped(op: Operation) -> Operation:
        return replace(op, operands=tuple(mapping.get(id(v), v) for v in op.operands))

    kernel = mapped(kernel)
    if kernel.body is None:
        return kernel
    return replace(kernel, body=replace(kernel.body, ops=tuple(map(mapped, kernel.body.ops))))


def structure(function: Function) -> str:
    """What layers share: the kernel without names' layers and without places."""
    return re.sub(r"\bl\d+\.|kv\.\d+|_\d+\b|arena\+\d+", "", "\n".join(print_operation(function.ops[-1])))


# Lone operations, at sizes that share nothing with a vector register. D 48, H 3, K 1, d 24, F 100, V 1031.

T_SIZES = (1, 2, 3, 5, 16, 31, 40)
CACHE = (3, 1, 53, 24)


class Lone:
    """What a lone operation's body may ask for: inputs, weights, caches, the rows of a step."""

    def __init__(self, t: int) -> None:
        self.builder, self.t = Builder(), t
        self.weights: dict[str, Weight] = {}
        self.states: dict[str, State] = {}
        self.placing = tuple(self.builder.input(n, TensorType("i32", (t,))) for n in ("ids", "pos", "slot"))
        self.ids, self.pos, self.slot = self.placing

    def x(self, *shape: int, name: str = "x") -> Value:
        return self.builder.input(name, TensorType("f32", shape))

    def weight(self, *shape: int, name: str = "w", dtype: DType = "f32") -> Weight:
        self.weights[name] = Weight(name, TensorType(dtype, shape))
        return self.weights[name]

    def cache(self, name: str, dtype: DType, d: int = CACHE[-1]) -> State:
        self.states[name] = State(name, TensorType(dtype, (*CACHE[:-1], d)))
        return self.states[name]


def results_of(made: Value | tuple[Value, ...]) -> list[Value]:
    return list(made) if isinstance(made, tuple) else [made]


def _attention(dtype: DType, window: int) -> Callable[[Lone], Value]:
    def body(s: Lone) -> Value:
        if dtype == "i8":
            caches = [s.cache(n, "i8") if "." not in n else s.cache(n, "f32", 1) for n in ("k", "k.s", "v", "v.s")]
            rounded: Value = ops.attention_int8(
                s.x(s.t, 3, 24), *caches, s.pos, s.slot, scale=0.01 * 24**-0.5, window=window
            )
            return rounded
        keys, values = s.cache("k", dtype), s.cache("v", dtype)
        q = s.x(s.t, 3, 24)
        out: Value = ops.attention(q, keys, values, s.pos, s.slot, scale=24**-0.5, window=window)
        return out

    return body


def _rounded_product(s: Lone, n: int, k: int, group: int, scale: DType) -> Value:
    weights = s.weight(n, k, dtype="i8"), s.weight(n, -(-k // group), name="scale", dtype=scale)
    product: Value = ops.linear_int8(*ops.quantize_rows(s.x(s.t, k), group=group), *weights, group=group)
    return product


LONE: dict[str, Callable[[Lone], Any]] = {
    "add": lambda s: ops.add(s.x(s.t, 48), s.x(s.t, 48, name="y")),
    "add bias": lambda s: ops.add(s.x(s.t, 100), s.weight(100)),
    "add last of heads": lambda s: ops.add(s.x(s.t, 3, 24), s.weight(24)),
    "attention": _attention("f32", 0),
    "attention f16": _attention("f16", 0),
    "attention window": _attention("f32", 7),
    "attention bf16": _attention("bf16", 0),
    "attention f16 window": _attention("f16", 1),
    "attention wide window": _attention("f32", 53),
    "attention_int8": _attention("i8", 0),
    "attention_int8 window": _attention("i8", 7),
    "cast": lambda s: ops.cast(ops.embed(s.ids, s.weight(1031, 48, dtype="bf16")), dtype="f32"),
    "cast f16": lambda s: ops.cast(ops.embed(s.ids, s.weight(1031, 48, dtype="f16")), dtype="f32"),
    "cast to f16": lambda s: ops.cast(s.x(s.t, 48), dtype="f16"),
    "cast to bf16": lambda s: ops.cast(s.x(s.t, 48), dtype="bf16"),
    "dequantize": lambda s: ops.dequantize(
        ops.embed(s.ids, s.weight(1031, 48, dtype="i8")), ops.embed(s.ids, s.weight(1031, 3, name="scale")), group=20
    ),
    "dequantize one short group": lambda s: ops.dequantize(
        ops.embed(s.ids, s.weight(1031, 48, dtype="i8")), ops.embed(s.ids, s.weight(1031, 1, name="scale")), group=64
    ),
    "dequantize flat": lambda s: ops.embed(
        s.ids, ops.dequantize(s.weight(32, 48, dtype="i8"), s.weight(16, name="scale"), group=96)
    ),
    "embed": lambda s: ops.embed(s.ids, s.weight(1031, 48)),
    "kv_write": lambda s: ops.kv_write(s.cache("k", "f32"), s.x(s.t, 1, 24), s.pos, s.slot),
    "kv_write f16": lambda s: ops.kv_write(s.cache("k", "f16"), s.x(s.t, 1, 24), s.pos, s.slot),
    "kv_write bf16": lambda s: ops.kv_write(s.cache("k", "bf16"), s.x(s.t, 1, 24), s.pos, s.slot),
    "kv_write int8": lambda s: tuple(
        ops.kv_write(cache, row, s.pos, s.slot)
        for cache, row in zip(
            (s.cache("k", "i8"), s.cache("k.scale", "f32", 1)),
            ops.quantize_rows(s.x(s.t, 1, 24), group=24),
            strict=True,
        )
    ),
    "linear": lambda s: ops.linear(s.x(s.t, 48), s.weight(100, 48)),
    "linear to V": lambda s: ops.linear(s.x(s.t, 48), s.weight(1031, 48)),
    "linear to one": lambda s: ops.linear(s.x(s.t, 48), s.weight(1, 48)),
    "linear bf16": lambda s: ops.linear(s.x(s.t, 100), ops.cast(s.weight(48, 100, dtype="bf16"), dtype="f32")),
    "linear f16": lambda s: ops.linear(s.x(s.t, 896), ops.cast(s.weight(33, 896, dtype="f16"), dtype="f32")),
    "linear int8": lambda s: ops.linear(
        s.x(s.t, 100), ops.dequantize(s.weight(48, 100, dtype="i8"), s.weight(48, 4, name="scale"), group=32)
    ),
    "linear int8 deep": lambda s: ops.linear(
        s.x(s.t, 1300), ops.dequantize(s.weight(33, 1300, dtype="i8"), s.weight(33, 21, name="scale"), group=64)
    ),
    "linear int8 odd rows": lambda s: ops.linear(
        s.x(s.t, 99), ops.dequantize(s.weight(48, 99, dtype="i8"), s.weight(48, 4, name="scale"), group=32)
    ),
    "linear bf16 odd rows": lambda s: ops.linear(s.x(s.t, 99), ops.cast(s.weight(33, 99, dtype="bf16"), dtype="f32")),
    "linear flat int8": lambda s: ops.linear(
        s.x(s.t, 100), ops.dequantize(s.weight(48, 100, dtype="i8"), s.weight(75, name="scale"), group=64)
    ),
    "linear_int8": lambda s: _rounded_product(s, 48, 100, 32, "f32"),
    "linear_int8 long groups": lambda s: _rounded_product(s, 1031, 896, 128, "f16"),
    "linear_int8 whole rows": lambda s: _rounded_product(s, 48, 1300, 1300, "f16"),
    "linear_int8 odd rows": lambda s: _rounded_product(s, 33, 98, 32, "f32"),
    "linear_int8 odd groups": lambda s: _rounded_product(s, 33, 100, 7, "f16"),
    "mul": lambda s: ops.mul(s.x(s.t, 100), s.x(s.t, 100, name="y")),
    "quantize_rows": lambda s: ops.quantize_rows(s.x(s.t, 100), group=33),
    "quantize_rows of heads": lambda s: ops.quantize_rows(s.x(s.t, 3, 24), group=24),
    "reshape": lambda s: ops.add(ops.reshape(s.x(s.t, 72), shape=(s.t, 3, 24)), s.weight(24)),
    "rmsnorm": lambda s: ops.rmsnorm(s.x(s.t, 48), s.weight(48), eps=1e-5),
    "rmsnorm of heads": lambda s: ops.rmsnorm(s.x(s.t, 3, 24), s.weight(24), eps=0.25),
    "rope half": lambda s: ops.rope(s.x(s.t, 3, 24), s.x(s.t, 12, 2, name="turn"), pairing="half"),
    "rope interleaved": lambda s: ops.rope(s.x(s.t, 3, 24), s.x(s.t, 12, 2, name="turn"), pairing="interleaved"),
    "rotation": lambda s: ops.rotation(s.pos, s.weight(12), scale=1.0),
    "rotation scaled": lambda s: ops.rotation(s.pos, s.weight(12), scale=1.25),
    "silu": lambda s: ops.silu(s.x(s.t, 100)),
    "split": lambda s: ops.add(*ops.split(s.x(s.t, 3, 24), sizes=(12, 12))),
    "take_rows": lambda s: ops.take_rows(s.x(s.t, 48), s.builder.input("rows", TensorType("i32", (2,)))),
}

# Rows so long that native code goes through them in another way: from 4,096 columns on, from 6,144 on, and of several
# stretches to a group.
LONG: dict[str, Callable[[Lone], Any]] = {
    "linear of long rows": lambda s: ops.linear(s.x(s.t, 4150), s.weight(19, 4150)),
    "linear bf16 of long rows": lambda s: ops.linear(
        s.x(s.t, 5003), ops.cast(s.weight(19, 5003, dtype="bf16"), dtype="f32")
    ),
    "linear bf16 of longer rows": lambda s: ops.linear(
        s.x(s.t, 6301), ops.cast(s.weight(19, 6301, dtype="bf16"), dtype="f32")
    ),
    "linear int8 of long groups": lambda s: ops.linear(
        s.x(s.t, 1030), ops.dequantize(s.weight(19, 1030, dtype="i8"), s.weight(19, 6, name="scale"), group=200)
    ),
    "linear int8 of many groups": lambda s: ops.linear(
        s.x(s.t, 1300), ops.dequantize(s.weight(19, 1300, dtype="i8"), s.weight(19, 21, name="scale"), group=64)
    ),
}


def _experts(s: Lone, dtype: str, own: bool = False) -> tuple[Value, Value]:
    """A product with the matrices of 5 experts, of which rows use 3."""
    x, (ids, shares) = s.x(s.t, 100), ops.top_experts(s.x(s.t, 5, name="logits"), used=3, normalized=True)
    if own:
        x = s.x(s.t, 3, 100, name="own")
    if dtype == "i8":
        w = ops.dequantize(s.weight(5 * 41, 100, dtype="i8"), s.weight(5 * 41, 4, name="scale"), group=32)
    elif dtype == "f32":
        w = s.weight(5 * 41, 100)
    else:
        w = ops.cast(s.weight(5 * 41, 100, dtype="bf16"), dtype="f32")
    return ops.expert_linear(x, w, ids, experts=5), shares


# Mixtures of experts, for generators that have code for them.
EXPERTS: dict[str, Callable[[Lone], Any]] = {
    "top_experts": lambda s: ops.top_experts(s.x(s.t, 6), used=2, normalized=True),
    "top_experts all": lambda s: ops.top_experts(s.x(s.t, 6), used=6, normalized=False),
    "expert_linear": lambda s: _experts(s, "f32"),
    "expert_linear own rows": lambda s: _experts(s, "f32", own=True),
    "expert_linear bf16": lambda s: _experts(s, "bf16"),
    "expert_linear int8": lambda s: _experts(s, "i8", own=True),
    "expert_sum": lambda s: ops.expert_sum(s.x(s.t, 3, 50), s.x(s.t, 3, name="share")),
}
