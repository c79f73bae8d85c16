"""Every kernel the cpu generator prints, run alone on fresh random inputs against its own body in float64.

A kernel stands where its function has it: operands at their places in the arena, windows with their strides. Everything
else in the arena is NaN, and so is every cache position that no row may see; afterwards nothing but the kernel's
results and scratch may have changed. All kernels of a model are functions of one translation unit.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu import target
from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.target import CPU
from graphllm.compiler.link import check_kernels
from graphllm.compiler.native import build
from graphllm.errors import GraphLLMError, PlanError
from graphllm.ir import ops
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.interpreter import interpret
from graphllm.ir.opdef import OPS
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.ir.types import TensorType
from graphllm.ir.verifier import verify
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.cpu_device import CpuDevice
from graphllm.runtime.dry_run import dry_run
from tests.cpu_models import cpu_device, cpu_lowered, quick_builds
from tests.lone_kernels import CACHE, LONE, Lone, alone, caches, close, fresh, positions, results_of, structure
from tests.lowered_models import Storage
from tests.model_zoo import ZOO

__all__ = ["quick_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")
Array = NDArray[Any]


def wide(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}


def check(device: CpuDevice, module: Module, function: Function, weights: Mapping[str, Array], seed: int) -> None:
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
    ("window_mixed", "bf16", "f16"),
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


@pytest.mark.parametrize(("name", "storage", "kv_dtype"), KERNELS)
def test_every_kernel_of_a_model(name: str, storage: Storage, kv_dtype: str) -> None:
    model = cpu_lowered(name, storage, kv_dtype=kv_dtype)
    functions = {f.name: f for f in distinct_kernels(model.module)}
    assert len(functions) >= 8 * 6
    module = replace(model.module, functions=functions)
    device = cpu_device(module, model.weights, threads=2)
    for seed, function in enumerate(functions.values()):
        check(device, module, function, model.weights, seed)


@pytest.mark.parametrize("name", ZOO)
def test_decoders_are_fused_to_the_last_operation(name: str) -> None:
    """Five kernels a layer, and embedding, rotation and classifier: nothing of a decoder is left by itself."""
    cases: tuple[tuple[Storage, str], ...] = (("f32", "f32"), ("bf16", "f16"), ("int8", "f32"), ("f32", "i8"))
    for storage, kv_dtype in cases:
        module = cpu_lowered(name, storage, kv_dtype=kv_dtype).module
        for function in module.functions.values():
            assert len(function.ops) == 5 * ZOO[name].layers + 3
        dry_run(module)  # reads what was written, writes over nothing that is still read


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


def test_lone_operations() -> None:
    weights, states, functions = dict[str, Weight](), dict[str, State](), dict[str, Function]()
    for number, (name, body) in enumerate(LONE.items()):
        placed = "kv" in name or "attention" in name
        for t in (1, 2, 5, 16, 31):
            for rows in ("independent", "consecutive") if placed else ("independent",):
                scope = Gathered(t, f"lone{number}.{t}.{rows[:3]}")
                with scope.builder as b:
                    results = results_of(body(scope))
                    updates = list(zip(scope.states.values(), results, strict=True)) if "kv" in name else []
                    title = f"{re.sub('[^a-z0-9]', '_', name)}_{t}_{rows}"
                    functions[title] = b.function(title, [] if updates else results, updates, rows)
                weights |= {w.name: w for w in scope.weights.values()}
                states |= {s.name: s for s in scope.states.values()}
    module, _ = run_passes(Module(weights, states, functions), lowering(CPU))
    rng = np.random.default_rng(5)
    arrays = {n: fresh(rng, w.type) for n, w in weights.items()}
    device = cpu_device(module, arrays, threads=2)
    for seed, function in enumerate(module.functions.values()):
        own = {id(v) for op in function.walk() for v in op.operands if isinstance(v, State)}
        mine = replace(module, states={n: s for n, s in module.states.items() if id(s) in own})
        check(device, mine, function, arrays, seed)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (
            "%h = embed %ids, @h : f16[1,6]\n %y = add %h, %h : f16[1,6]",
            "add giving %y: the cpu target computes in",
        ),
        ("%h = embed %ids, @h : f16[1,6]\n %y = silu %h : f16[1,6]", "silu giving %y: the cpu target computes in"),
        ('%a = embed %ids, @h : f16[1,6]\n %y = cast %a {dtype="bf16"} : bf16[1,6]', "cast giving %y"),
        ('%y = rope_frequencies {kind="default", pairs=3, theta=10000.0} : f32[3]', "rope_frequencies giving %y"),
        ("%y = embed %other, @f : f32[1,6]", "%other: the cpu target takes row numbers only from"),
        ("%y = kv_write @k, %v, %slot, %pos : f32[2,1,9,6]", "kv_write giving %y: its pos is %slot"),
    ],
)
def test_what_there_is_no_code_for_is_refused(body: str, refused: str) -> None:
    text = (
        "weight @h : f16[3,6] weight @f : f32[3,6] state @k : f32[2,1,9,6]\n"
        "func @f(%ids: i32[1], %pos: i32[1], %slot: i32[1], %other: i32[1]) {\n"
        " %x = embed %ids, @f : f32[1,6]\n %v = reshape %x {shape=[1,1,6]} : f32[1,1,6]\n"
        f" {body}\n return %x, @k = %y\n}}"
    )
    if "kv_write" not in body:
        text = text.replace("return %x, @k = %y", "return %y")
    module, _ = run_passes(parse_module(text), lowering(CPU))
    with pytest.raises(PlanError, match=re.escape(refused)):
        generate(module)


def test_names_from_outside_stay_in_comments() -> None:
    text = print_module(cpu_lowered("everything", "int8").module)
    evil = re.sub(r"([@%])(?!ids|pos|slot|rows)(\w)", r"\1evil_\2", text).replace("func @evil_", "func @")
    lines = generate(parse_module(evil)).splitlines()
    comments = [line for line in lines if line.startswith("//")]
    assert "evil" in "\n".join(comments)
    assert "\\" not in "\n".join(comments)  # it would join the next line to the comment
    assert "evil" not in "\n".join(line for line in lines if not line.startswith("//"))


def test_the_text_follows_from_the_module_alone() -> None:
    first, again = (generate(cpu_lowered("everything", seed=0).module) for _ in range(2))
    assert first == again


def test_mutated_modules_are_refused_in_words_or_give_text() -> None:
    """Lowered text of another's: names and kernels exchanged. What passes the verifier gives code or a PlanError."""
    source = print_module(cpu_lowered("one_layer", "int8").module)
    function = source[source.index("func @decode_4(") : source.index("func @prefill_8(")]
    head, lines, rng = source[: source.index("func @decode(")], function.splitlines(), random.Random(7)
    outcomes = {"refused before": 0, "refused": 0, "text": 0}
    for _ in range(1500):
        mutated = list(lines)
        for _ in range(rng.randint(1, 2)):
            i, j = rng.randrange(1, len(mutated) - 1), rng.randrange(1, len(mutated) - 1)
            names = re.findall(r"%[a-z0-9_.]+", mutated[i])
            match rng.randrange(4):
                case 0:  # a kernel holds less, and the next one more
                    del mutated[i]
                case 1:
                    mutated[i], mutated[j] = mutated[j], mutated[i]
                case 2 if names:  # other values are read
                    others = re.findall(r"%[a-z0-9_.]+", function)
                    mutated[i] = mutated[i].replace(names[-1], rng.choice(others))
                case _:
                    mutated[i] = re.sub(r"\d+", lambda found: str(rng.choice((found[0], 1, 2, 4, 8, 32))), mutated[i])
        try:
            module = parse_module(head + "\n".join(mutated))
            verify(module)
            check_kernels(module, "here", CPU)
        except GraphLLMError:
            outcomes["refused before"] += 1
            continue
        try:
            generate(module)
            outcomes["text"] += 1
        except PlanError:
            outcomes["refused"] += 1
    assert all(outcomes.values()), outcomes


@pytest.mark.parametrize(("header", "name"), [("attention.h", "CHUNK"), ("gemm_tile.h", "STACK"), ("linear.h", "FEW")])
def test_numbers_that_headers_and_planner_share(header: str, name: str) -> None:
    found = re.search(rf"constexpr int {name} = (\d+);", (build.HEADERS / header).read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == getattr(target, name)
