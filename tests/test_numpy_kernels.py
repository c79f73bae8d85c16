"""Every kernel the NumPy generator prints, run alone on fresh random inputs against its own body in float64.

A kernel stands where its function has it: operands at their places in the arena, windows with their strides, results
over an operand where the planner said so. Everything else in the arena is NaN, and so is every cache position that no
row may see; afterwards nothing but the kernel's results, inner values and scratch may have changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.kernels.numpy.convert import expanded, rows_of, tile_rows
from graphllm.codegen.numpy.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.errors import PlanError
from graphllm.ir import ops
from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.interpreter import interpret
from graphllm.ir.opdef import OPS, lookup
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_operation
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from tests.lowered_models import Lowered, Storage, lowered
from tests.model_zoo import ZOO

Array = NDArray[Any]
TOLERANCE = 2e-5  # of the largest result: f32 rounding over sums of at most a few hundred terms
F16_TOLERANCE = 1e-3  # one unit of an f16 that a value was rounded to


class Arena:
    """Memory for one function; ``weight`` and friends are what the generated text asks for."""

    def __init__(self, function: Function, weights: Mapping[str, Array], states: Mapping[str, Array]) -> None:
        self.bytes = np.full((function.arena or 0) + 64, 0xFF, np.uint8)[-np.empty(0).ctypes.data % 64 :]
        self.weights, self.states = weights, states
        self.tile = np.full(1 << 16, np.nan, np.float32)

    def at(self, offset: int, dtype: Any, shape: tuple[int, ...]) -> Array:
        return np.ndarray(shape, dtype, self.bytes, offset)

    def value(self, value: Value) -> Array:
        assert value.arena is not None
        return self.at(value.arena, value.type.numpy, value.type.shape)

    def __call__(self, name: str) -> Array:
        return self.weights[name]

    def expanded(self, name: str, scale: str = "", group: int = 0) -> Array:
        return expanded(self.weights[name], self.weights[scale] if scale else None, group)


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
    """Random up to each row's position, NaN wherever no row may look."""
    out: dict[str, Array] = {}
    for state in states:
        out[state.name] = np.full(state.type.shape, np.nan, state.type.numpy)
        for p, s in zip(pos, slot, strict=True):
            seen = out[state.name][s, :, : p + 1]
            seen[...] = rng.standard_normal(seen.shape)
    return out


def where(function: Function, pos: list[int], slot: list[int]) -> tuple[Any, ...]:
    """The arguments of a generated step."""
    if len(pos) == 1:
        return pos[0], slot[0]
    live = sum(p >= 0 for p in pos)
    if function.rows == "consecutive":
        return pos[0], live, slot[0]
    return ([(t, pos[t], slot[t]) for t in range(live)],)


def run(
    module: Module, function: Function, weights: Mapping[str, Array], tiled: Iterable[str], seed: int, *, ids: int
) -> None:
    """Run the one function of generated code and compare all it gives, and all it leaves alone."""
    rng = np.random.default_rng(seed)
    shape = next((s.type.shape for s in module.states.values()), (1, 1, 64, 1))
    pos, slot = positions(rng, function, shape[2], shape[0])
    states = caches(rng, module.states.values(), pos, slot)
    given: dict[str, Array] = {v.name: fresh(rng, v.type) for v in function.inputs if v.type.dtype != "i32"}
    count = len(pos)
    given |= {"pos": np.array(pos, np.int32), "slot": np.array(slot, np.int32)}
    given |= {v.name: rng.integers(0, ids, v.type.shape).astype(np.int32) for v in function.inputs if v.name == "ids"}
    given |= {v.name: rng.integers(0, count, v.type.shape, np.int32) for v in function.inputs if v.name == "rows"}

    arena = Arena(function, weights, {n: a.copy() for n, a in states.items()})
    made = {id(v) for op in function.walk() for v in op.results}
    roots: dict[str, Array] = {}  # what earlier kernels left
    for op in function.walk():
        for v in op.operands:
            if id(v) not in made and v.arena is not None and v.name not in roots:
                roots[v.name] = fresh(rng, v.type)
                arena.value(v)[...] = roots[v.name]
    before = arena.bytes.copy()
    inputs = {name: array.copy() for name, array in given.items()}

    namespace: dict[str, Any] = {}
    exec(compile(generate(replace(module, functions={function.name: function}), tiled), "generated", "exec"), namespace)
    bind = namespace[f"function_{function.name}"]
    step, results = bind(arena.at, arena, arena.states.__getitem__, inputs.__getitem__)
    with np.errstate(all="ignore"):
        step(*where(function, pos, slot))

    def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}

    with np.errstate(all="ignore"):
        wanted, updated = interpret(
            function, given, lambda w: weights[w.name], {**wide(states), **wide(roots)}, wide=True
        )
    for value, got, want in zip(function.results, results, wanted, strict=True):
        close(got.reshape(want.shape), want, value.type.dtype, value.ref)
    for name, array in arena.states.items():
        close(array, updated[name], module.states[name].type.dtype, name)
    touched = np.zeros(arena.bytes.size, np.bool_)
    for op in (*function.ops, *function.walk()):
        for v in op.results:
            if v.arena is not None:
                touched[v.arena : v.arena + v.type.bytes] = True
        if op.scratch is not None:
            touched[op.scratch[0] : sum(op.scratch)] = True
    np.testing.assert_array_equal(arena.bytes[~touched], before[~touched], "bytes of others were written")
    for name, array in given.items():
        np.testing.assert_array_equal(inputs[name], array, f"input {name} was written")


def close(got: Array, want: Array, dtype: DType, what: str) -> None:
    seen = ~np.isnan(want)
    assert not np.isnan(got.astype(np.float64)[seen]).any(), f"{what}: NaN reached it"
    assert np.isnan(got.astype(np.float64)[~seen]).all(), f"{what}: written where nothing was to be"
    if dtype in ("i8", "i32"):
        np.testing.assert_array_equal(got, want)
        return
    bound = (F16_TOLERANCE if dtype in ("f16", "bf16") else TOLERANCE) * max(np.abs(want[seen]).max(initial=0), 1e-3)
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


def kernels(model: Lowered, tiled: Iterable[str]) -> None:
    for function in model.module.functions.values():
        seen: set[str] = set()
        for number, one in enumerate(alone(function)):
            if (key := structure(one)) not in seen:
                seen.add(key)
                run(model.module, one, model.weights, tiled, number, ids=model.config.vocab)
        assert seen


@pytest.mark.parametrize("name", ZOO)
def test_every_kernel_of_every_model(name: str) -> None:
    kernels(lowered(name), ())


STORED: tuple[tuple[str, Storage, DType], ...] = (
    ("odd_interleaved", "flat", "f32"),
    ("odd_interleaved", "int8", "f16"),
    ("window_mixed", "flat", "f16"),
    ("window_mixed", "bf16", "f32"),
    ("everything", "f32", "f16"),
    ("everything", "bf16", "f16"),
    ("everything", "f16", "f32"),
    ("everything", "int8", "f32"),
    ("tied", "int8", "f16"),
)


@pytest.mark.parametrize(("name", "storage", "kv_dtype"), STORED)
def test_every_storage_expanded_and_tiled(name: str, storage: Storage, kv_dtype: DType) -> None:
    model = lowered(name, storage, kv_dtype)
    kernels(model, ())
    if storage != "f32":
        assert len(model.narrow) > 4 * model.config.layers
        kernels(model, model.narrow)


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

    def cache(self, name: str, dtype: DType) -> State:
        self.states[name] = State(name, TensorType(dtype, CACHE))
        return self.states[name]


def _attention(dtype: DType, window: int) -> Callable[[Lone], Value]:
    def body(s: Lone) -> Value:
        keys, values = s.cache("k", dtype), s.cache("v", dtype)
        q = s.x(s.t, 3, 24)
        out: Value = ops.attention(q, keys, values, s.pos, s.slot, scale=24**-0.5, window=window)
        return out

    return body


LONE: dict[str, Callable[[Lone], Any]] = {
    "add": lambda s: ops.add(s.x(s.t, 48), s.x(s.t, 48, name="y")),
    "add bias": lambda s: ops.add(s.x(s.t, 100), s.weight(100)),
    "add last of heads": lambda s: ops.add(s.x(s.t, 3, 24), s.weight(24)),
    "attention": _attention("f32", 0),
    "attention f16": _attention("f16", 0),
    "attention window": _attention("f32", 7),
    "attention f16 window": _attention("f16", 1),
    "attention wide window": _attention("f32", 53),
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
    "linear": lambda s: ops.linear(s.x(s.t, 48), s.weight(100, 48)),
    "linear to V": lambda s: ops.linear(s.x(s.t, 48), s.weight(1031, 48)),
    "linear to one": lambda s: ops.linear(s.x(s.t, 48), s.weight(1, 48)),
    "linear bf16": lambda s: ops.linear(s.x(s.t, 100), ops.cast(s.weight(48, 100, dtype="bf16"), dtype="f32")),
    "linear int8": lambda s: ops.linear(
        s.x(s.t, 100), ops.dequantize(s.weight(48, 100, dtype="i8"), s.weight(48, 4, name="scale"), group=32)
    ),
    "linear flat int8": lambda s: ops.linear(
        s.x(s.t, 100), ops.dequantize(s.weight(48, 100, dtype="i8"), s.weight(75, name="scale"), group=64)
    ),
    "mul": lambda s: ops.mul(s.x(s.t, 100), s.x(s.t, 100, name="y")),
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


@pytest.mark.parametrize("name", LONE)
def test_lone_operations(name: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    for t in T_SIZES:
        for rows in ("independent", "consecutive") if "kv" in name or "attention" in name else ("independent",):
            scope = Lone(t)
            with scope.builder as b:
                result = LONE[name](scope)
                updates = [(s, result) for s in scope.states.values()] if "kv" in name else []
                function = b.function("f", [] if updates else [result], updates, rows)
            module = Module(scope.weights, scope.states, {"f": function})
            (module, _) = run_passes(module, lowering(NUMPY))
            weights = {n: fresh(rng, w.type) for n, w in scope.weights.items()}
            narrow = {n for n, w in scope.weights.items() if w.type.dtype != "f32" and "flat" not in name[:15]}
            for tiled in ((), narrow) if "linear" in name else ((),):
                run(module, module.functions["f"], weights, tiled, t, ids=32)


def test_every_operation_is_here_or_refused() -> None:
    here = {name.split()[0] for name in LONE}
    for name in set(OPS) - here:
        assert name in ("concat", "interleave", "rope_frequencies"), f"{name} has no test of its own kernel"
    for body, refused in (
        ("%y = concat %x, %x : f32[4,6]", "concat"),
        ("%y = interleave %x {heads=1} : f32[2,6]", "interleave"),
        ('%y = rope_frequencies {kind="default", pairs=3, theta=10000.0} : f32[3]', "rope_frequencies"),
        ("%h = embed %ids, @h : f16[1,6]\n %y = add %h, %h : f16[1,6]", "add"),
        ("%h = embed %ids, @h : f16[1,6]\n %y = silu %h : f16[1,6]", "silu"),
        ("%y = linear %x, %w : f32[2,1]", "linear"),
        ("%y = add %x1, @one : f32[1,6]", "add"),
        ("%y = kv_write @k, %v, %slot, %pos : f32[2,1,9,4]\n %z = silu %x : f32[2,6]", "kv_write"),
    ):
        text = (
            "weight @h : f16[3,6] weight @one : f32[1,6] state @k : f32[2,1,9,4]\n"
            "func @f(%ids: i32[1], %pos: i32[1], %slot: i32[1], %x: f32[2,6], %x1: f32[1,6], %v: f32[1,1,4]) {\n"
            f" %w = silu %x1 : f32[1,6]\n {body}\n return %y\n}}"
        )
        if refused == "kv_write":
            text = text.replace("return %y", "return %z, @k = %y")
        module, _ = run_passes(parse_module(text), lowering(NUMPY))
        with pytest.raises(
            PlanError, match=rf"^{refused} giving %y: the numpy target|^{refused} giving %y: its pos is"
        ):
            generate(module)


@pytest.mark.parametrize(
    ("n", "k", "group"), [(7, 5, 0), (1000, 1000, 0), (9, 700_000, 0), (3000, 128, 384), (6, 10, 4)]
)
def test_tiles_cover_a_matrix(n: int, k: int, group: int) -> None:
    step = tile_rows((n, k), group)
    assert 1 <= step <= n
    assert step * k % max(group, 1) == 0
    assert step == n or step * k <= 1 << 18 or step == 1 or step * k <= k * max(group, 1)


def test_matrices_of_many_tiles() -> None:
    rng = np.random.default_rng(3)
    n, k, group = 1537, 640, 256  # flat groups straddle rows, several tiles and a short one
    q = rng.integers(-127, 128, (n + 1, k), np.int8)
    scale = rng.random((n + 1) * k // group, np.float32)
    got = expanded(q, scale, group)
    want = q * np.repeat(scale, group).reshape(q.shape).astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=1e-7)
    part = np.full((2, k), np.nan, np.float32)
    rows_of(q, scale, group)(2, 4, part)
    np.testing.assert_array_equal(part, got[2:4])
