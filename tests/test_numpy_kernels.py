"""Every kernel the NumPy generator prints, run alone on fresh random inputs against its own body in float64.

A kernel stands where its function has it: operands at their places in the arena, windows with their strides, results
over an operand where the planner said so. Everything else in the arena is NaN, and so is every cache position that no
row may see; afterwards nothing but the kernel's results, inner values and scratch may have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.kernels.numpy.convert import expanded, rows_of, tile_rows
from graphllm.codegen.numpy.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.errors import PlanError
from graphllm.ir.core import Function, Module, Value
from graphllm.ir.interpreter import interpret
from graphllm.ir.opdef import OPS
from graphllm.ir.parser import parse_module
from graphllm.ir.types import DType
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from tests.lone_kernels import (
    EXPERTS,
    LONE,
    T_SIZES,
    Lone,
    alone,
    caches,
    close,
    fresh,
    positions,
    results_of,
    structure,
)
from tests.lowered_models import Lowered, Storage, lowered
from tests.model_zoo import ZOO

Array = NDArray[Any]


class Arena:
    """Memory for one function; ``weight`` and friends are what the generated text asks for."""

    def __init__(self, function: Function, weights: Mapping[str, Array], states: Mapping[str, Array]) -> None:
        self.bytes = np.full((function.arena or 0) + 64, 0xFF, np.uint8)[-np.empty(0).ctypes.data % 64 :]
        self.weights, self.states = weights, states
        self.tile = np.full(1 << 18, np.nan, np.float32)

    def at(self, offset: int, dtype: Any, shape: tuple[int, ...]) -> Array:
        return np.ndarray(shape, dtype, self.bytes, offset)

    def value(self, value: Value) -> Array:
        assert value.arena is not None
        return self.at(value.arena, value.type.numpy, value.type.shape)

    def __call__(self, name: str) -> Array:
        return self.weights[name]

    def expanded(self, name: str, scale: str = "", group: int = 0) -> Array:
        return expanded(self.weights[name], self.weights[scale] if scale else None, group)


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
    ("everything", "bf16", "i8"),
    ("odd_sizes", "f32", "i8"),
    ("window_mixed", "f32", "i8"),
)


@pytest.mark.parametrize(("name", "storage", "kv_dtype"), STORED)
def test_every_storage_expanded_and_tiled(name: str, storage: Storage, kv_dtype: DType) -> None:
    model = lowered(name, storage, kv_dtype)
    kernels(model, ())
    if storage != "f32":
        assert len(model.narrow) > 4 * model.config.layers
        kernels(model, model.narrow)


@pytest.mark.parametrize("name", LONE | EXPERTS)
def test_lone_operations(name: str) -> None:
    rng = np.random.default_rng(sum(map(ord, name)))
    for t in T_SIZES:
        for rows in ("independent", "consecutive") if "kv" in name or "attention" in name else ("independent",):
            scope = Lone(t)
            with scope.builder as b:
                results = results_of((LONE | EXPERTS)[name](scope))
                updates = list(zip(scope.states.values(), results, strict=True)) if "kv" in name else []
                function = b.function("f", [] if updates else results, updates, rows)
            module = Module(scope.weights, scope.states, {"f": function})
            (module, _) = run_passes(module, lowering(NUMPY))
            weights = {n: fresh(rng, w.type) for n, w in scope.weights.items()}
            narrow = {n for n, w in scope.weights.items() if w.type.dtype != "f32" and "flat" not in name[:15]}
            for tiled in ((), narrow) if "linear" in name else ((),):
                run(module, module.functions["f"], weights, tiled, t, ids=32)


def test_every_operation_is_here_or_refused() -> None:
    here = {name.split()[0] for name in LONE | EXPERTS}
    for name in set(OPS) - here:
        compile_time = ("concat", "interleave", "rope_frequencies", "group_scales", "quantize_groups")
        assert name in compile_time, f"{name} has no test of its own kernel"
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
