"""Kernels run alone on fresh random memory against their own bodies in float64, for whatever generator printed them.

A kernel stands where its function has it: operands at their places in the arena, windows with their strides. Everything
else in the arena is NaN, and so is every cache position that no row may see; afterwards nothing but the kernel's
results and scratch may have changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from graphllm.ir import ops
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.interpreter import interpret
from graphllm.ir.opdef import OPS
from graphllm.ir.types import TensorType
from graphllm.passes.manager import Pass, run_passes
from tests.lone_kernels import CACHE, LONE, Lone, alone, caches, close, fresh, positions, results_of, structure
from tests.lowered_models import Storage

Array = NDArray[Any]


class Stepping(Protocol):
    """A device whose memory is open."""

    @property
    def states(self) -> Mapping[str, Array]: ...

    @property
    def arena(self) -> NDArray[np.uint8]: ...

    def step(self, function: str, inputs: Mapping[str, Sequence[int]]) -> None: ...


def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}


def check(device: Stepping, module: Module, function: Function, weights: Mapping[str, Array], seed: int) -> None:
    """Run one function on random memory and compare all it gives, and all it leaves alone."""
    rng = np.random.default_rng(seed)
    states = {s.name: s for s in module.states.values()}
    shape = next((s.type.shape for s in states.values()), (1, 1, 64, 1))
    pos, slot = positions(rng, function, shape[2], shape[0])
    live = sum(p >= 0 for p in pos)
    held = caches(rng, states.values(), pos, slot)
    for name, array in held.items():
        device.states[name][...] = array
    given: dict[str, Array] = {"pos": np.array(pos, np.int32), "slot": np.array(slot, np.int32)}
    for v in function.inputs:
        if v.name == "ids":
            given["ids"] = rng.integers(0, 32, v.type.shape).astype(np.int32)
        elif v.name == "rows":
            given["rows"] = rng.integers(0, live, v.type.shape).astype(np.int32)

    memory = device.arena
    memory.fill(0xFF)

    def at(value: Value) -> Array:
        assert value.arena is not None
        return np.ndarray(value.type.shape, value.type.numpy, memory, value.arena)

    made = {id(v) for op in function.walk() for v in op.results}
    roots: dict[str, Array] = {}  # what earlier kernels left
    for op in function.walk():
        for v in op.operands:
            if id(v) not in made and v.arena is not None and v.name not in roots:
                roots[v.name] = fresh(rng, v.type)
                if v.type.shape[0] == len(pos):
                    roots[v.name][live:] = np.nan
                at(v)[...] = roots[v.name]
    before = memory.copy()
    device.step(function.name, {n: a[:live] if n != "rows" else a for n, a in given.items()})

    with np.errstate(all="ignore"):
        wanted, updated = interpret(
            function, given, lambda w: weights[w.name], {**wide(held), **wide(roots)}, wide=True
        )
    for value, want in zip(function.results, wanted, strict=True):
        rows = live if value.type.shape[0] == len(pos) else value.type.shape[0]
        close(window(function, value, at)[:rows], want[:rows], value.type.dtype, value.ref)
    for name, state in states.items():
        close(device.states[name], updated.get(name, held[name]), state.type.dtype, name)
    touched = np.zeros(memory.size, np.bool_)
    for op in (*function.ops, *function.walk()):
        for v in op.results:
            if v.arena is not None:
                touched[v.arena : v.arena + v.type.bytes] = True
        if op.scratch is not None:
            touched[op.scratch[0] : sum(op.scratch)] = True
    np.testing.assert_array_equal(memory[~touched], before[~touched], "bytes of others were written")


def window(function: Function, value: Value, at: Any) -> Array:
    """A result in the arena, or the window on one that it is."""
    if value.arena is not None:
        return at(value)
    maker = next(op for op in function.walk() if value in op.results)
    found = ops_reference(maker, window(function, maker.operands[0], at))
    return found[maker.results.index(value)]


def ops_reference(op: Operation, x: Array) -> tuple[Array, ...]:
    found: Any = OPS[op.name].reference(x, **op.attrs)
    return found if isinstance(found, tuple) else (found,)


def distinct_kernels(module: Module) -> Iterator[Function]:
    """Each kernel that layers do not share, as a function with a name of its own."""
    number = 0
    for function in module.functions.values():
        seen: set[str] = set()
        for one in alone(function):
            if (key := structure(one)) not in seen:
                seen.add(key)
                yield replace(one, name=f"{function.name}_{number}")
                number += 1


KERNELS: tuple[tuple[str, Storage, str], ...] = (
    ("odd_sizes", "f32", "f32"),
    ("odd_interleaved", "flat", "f16"),
    ("qk_norm_bias_interleaved", "int8", "f32"),
    ("window_mixed", "bf16", "bf16"),
    ("everything", "f32", "f32"),
    ("everything", "bf16", "f16"),
    ("everything", "f16", "f32"),
    ("everything", "int8", "f16"),
    ("everything", "bf16", "i8"),
    ("odd_interleaved", "int8", "i8"),
    ("mqa", "bf16", "f32"),
    ("mqa", "f32", "i8"),
    ("window_mixed", "f32", "i8"),
    ("narrow_heads", "f32", "i8"),
    ("narrow_heads", "f32", "f16"),
    ("tied", "int8", "f32"),
    ("one_head", "f16", "f16"),
)


# Every way to store weights and every kind of cache once or twice: for kernels that a slow compiler has to build first.
FEWER_KERNELS: tuple[tuple[str, Storage, str], ...] = (
    ("odd_sizes", "f32", "f32"),
    ("odd_interleaved", "flat", "f16"),
    ("qk_norm_bias_interleaved", "int8", "f32"),
    ("window_mixed", "bf16", "bf16"),
    ("everything", "bf16", "i8"),
    ("everything", "int8", "f16"),
    ("mqa", "f32", "i8"),
    ("narrow_heads", "f32", "f16"),
    ("one_head", "f16", "f16"),
)


# Lone operations at sizes that share nothing with a vector register, all in one translation unit.


class Gathered(Lone):
    """A lone operation whose inputs are rows of tables: a step is given nothing but numbers."""

    def __init__(self, t: int, prefix: str) -> None:
        super().__init__(t)
        self.prefix = prefix

    def x(self, *shape: int, name: str = "x") -> Value:
        table = self.weight(32, int(np.prod(shape[1:])), name=f"table.{name}")
        return ops.reshape(ops.embed(self.ids, table), shape=shape)

    def weight(self, *shape: int, name: str = "w", dtype: Any = "f32") -> Weight:
        self.weights[name] = Weight(f"{self.prefix}.{name}", TensorType(dtype, shape))
        return self.weights[name]

    def cache(self, name: str, dtype: Any, d: int = CACHE[-1]) -> State:
        state = super().cache(name, dtype, d)
        self.states[name] = State(f"{self.prefix}.{name}", state.type)
        return self.states[name]


def lone_module(
    passes: Sequence[Pass],
    rows: Sequence[int] = (1, 2, 5, 16, 31),
    cases: Mapping[str, Callable[[Lone], Any]] = LONE,
) -> tuple[Module, dict[str, Array], list[Function]]:
    """Every lone operation at several numbers of rows, in one lowered module; its weights; its functions."""
    weights, states, functions = dict[str, Weight](), dict[str, State](), dict[str, Function]()
    for number, (name, body) in enumerate(cases.items()):
        placed = "kv" in name or "attention" in name
        for t in rows:
            for order in ("independent", "consecutive") if placed else ("independent",):
                scope = Gathered(t, f"lone{number}.{t}.{order[:3]}")
                with scope.builder as b:
                    results = results_of(body(scope))
                    updates = list(zip(scope.states.values(), results, strict=True)) if "kv" in name else []
                    title = f"{re.sub('[^a-z0-9]', '_', name)}_{t}_{order}"
                    functions[title] = b.function(title, [] if updates else results, updates, order)
                weights |= {w.name: w for w in scope.weights.values()}
                states |= {s.name: s for s in scope.states.values()}
    module, _ = run_passes(Module(weights, states, functions), passes)
    rng = np.random.default_rng(5)
    arrays = {n: fresh(rng, w.type) for n, w in weights.items()}
    return module, arrays


def own_states(module: Module, function: Function) -> Module:
    """The module with the states of one function only."""
    own = {id(v) for op in function.walk() for v in op.operands if isinstance(v, State)}
    return replace(module, states={n: s for n, s in module.states.items() if id(s) in own})
