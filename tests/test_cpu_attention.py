"""Attention in native code over long caches: cut into chunks, many heads a group, heads of odd sizes; every kind of
cache, every instruction set, and the same bits for any number of threads. What no row may see is NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu.target import CHUNK, CPU
from graphllm.compiler.native.isa import Isa, cpu_features
from graphllm.ir.core import Function, Module
from graphllm.ir.interpreter import interpret
from graphllm.ir.parser import parse_module
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.cpu_device import CpuDevice
from tests.cpu_models import cpu_device, faster_builds, quick_builds
from tests.kernel_checks import own_states
from tests.lone_kernels import caches, close

__all__ = ["faster_builds", "quick_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")
Array = NDArray[Any]
CONTEXT = 3 * CHUNK + 50
ENDS = (0, 1, 63, 64, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, CONTEXT - 1)  # positions that one row may have
TOGETHER = ((CONTEXT - 2, 1), (5, 0), (CHUNK + 7, 2))  # (position, slot) of rows of several sequences
SHAPES = ((8, 2, 64), (9, 1, 24), (23, 1, 16), (4, 4, 80), (32, 8, 8), (2, 1, 1))  # H, K, d


Case = tuple[tuple[int, int, int], str, int]  # shape, kind of cache, window


def module_of(cases: Sequence[Case]) -> Module:
    """Attention alone: of one row, of three sequences, of consecutive rows. All cases are one translation unit."""
    weights, states, functions = list[str](), dict[str, str](), list[str]()
    for number, ((h, k, d), kv, window) in enumerate(cases):
        own = f"{kv}_{h}_{k}_{d}"  # a cache that several windows look through
        keys, values = f"k.{own}", f"v.{own}"
        states |= {n: f"state @{n} : {kv}[3,{k},{CONTEXT},{d}]" for n in (keys, values)}
        op, names = "attention", f"@{keys}, @{values}"
        if kv == "i8":
            states |= {f"{n}.scale": f"state @{n}.scale : f32[3,{k},{CONTEXT},1]" for n in (keys, values)}
            op, names = "attention_int8", f"@{keys}, @{keys}.scale, @{values}, @{values}.scale"
        weights.append(f"weight @table{number} : f32[16,{h * d}]")
        scale = d**-0.5 / (50 if kv == "i8" else 1)
        for name, rows, order in (("one", 1, ""), ("several", 3, ""), ("many", 37, "consecutive ")):
            t = f"i32[{rows}]"
            functions.append(
                f"func @{name}_{number}(%ids: {t}, %pos: {t}, %slot: {t}) {order}{{\n"
                f"  %flat = embed %ids, @table{number} : f32[{rows},{h * d}]\n"
                f"  %q = reshape %flat {{shape=[{rows},{h},{d}]}} : f32[{rows},{h},{d}]\n"
                f"  %a = {op} %q, {names}, %pos, %slot {{scale={scale!r}, window={window}}} : f32[{rows},{h},{d}]\n"
                "  return %a\n}"
            )
    return run_passes(parse_module("\n".join([*weights, *states.values(), *functions])), lowering(CPU))[0]


def steps() -> list[tuple[str, list[int], list[int]]]:
    """(function, positions, slots) of every step that is tried."""
    out = [("one", [end], [2]) for end in ENDS]
    out.append(("several", [p for p, _ in TOGETHER], [s for _, s in TOGETHER]))
    out += [("several", [p], [s]) for p, s in TOGETHER[:1]]
    return out + [("many", list(range(first, first + 37)), [1] * 37) for first in (0, 50, CONTEXT - 37)]


def compare(cases: Sequence[Case], isa: Isa | None = None) -> None:
    module, rng = module_of(cases), np.random.default_rng(len(cases))
    tables = {n: rng.standard_normal(w.type.shape).astype(np.float32) for n, w in module.weights.items()}
    devices = [cpu_device(module, tables, threads=n, isa=isa) for n in (1, 2, 5)]
    for number, case in enumerate(cases):
        for name, pos, slot in steps():
            function = module.functions[f"{name}_{number}"]
            what = f"{case} {name} at {pos}"
            compare_step(module, function, devices, tables[f"table{number}"], rng, case[2], pos, slot, what)


def compare_step(
    module: Module,
    function: Function,
    devices: Sequence[CpuDevice],
    table: Array,
    rng: np.random.Generator,
    window: int,
    pos: list[int],
    slot: list[int],
    what: str,
) -> None:
    count = function.inputs[0].type.shape[0]
    given = {"ids": rng.integers(0, 16, len(pos)).astype(np.int32), "pos": np.array(pos, np.int32)}
    given["slot"] = np.array(slot, np.int32)
    held = caches(rng, own_states(module, function).states.values(), pos, slot)
    if window:  # what lies before the window is not seen either
        for p, s in zip(pos[:1], slot[:1], strict=True):
            for state, array in held.items():
                array[s, :, : max(0, p + 1 - window)] = -128 if module.states[state].type.dtype == "i8" else np.nan
    found: list[Array] = []
    (result,) = function.results
    assert result.arena is not None
    for device in devices:
        for state, array in held.items():
            device.states[state][...] = array
        device.arena.fill(0xFF)
        device.step(function.name, given)  # type: ignore[arg-type]
        rows = np.ndarray(result.type.shape, np.float32, device.arena, result.arena)
        found.append(rows[: len(pos)].copy())
    assert all(other.tobytes() == found[0].tobytes() for other in found), f"{what}: threads"
    whole = {n: np.pad(a, (0, count - len(a)), constant_values=-1 if n == "pos" else 0) for n, a in given.items()}
    states = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in held.items()}
    with np.errstate(all="ignore"):
        (want,), _ = interpret(function, whole, lambda w: table, states, wide=True)
    close(found[0], want[: len(pos)], "f32", what)


KINDS = ("f32", "f16", "i8")


@pytest.mark.usefixtures("faster_builds")
@pytest.mark.parametrize("kv", KINDS)
def test_long_caches(kv: str) -> None:
    compare([(shape, kv, window) for shape in SHAPES for window in (0, 300)])


@pytest.mark.parametrize("isa", ["avx2", "portable", "portable-native"])
def test_fewer_instructions(isa: Isa) -> None:
    if isa == "avx2" and not {"avx2", "fma", "f16c", "avx512f"} <= set(cpu_features().split()):
        pytest.skip("this CPU has no AVX2, or nothing beyond it, which is tested as it is")
    compare([case for kv in KINDS for case in (((9, 1, 24), kv, 0), ((8, 2, 64), kv, 300))], isa)
