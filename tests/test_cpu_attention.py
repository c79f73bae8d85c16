"""Attention in native code over long caches: cut into chunks, many heads a group, heads of odd sizes; every kind of
cache, every instruction set, and the same bits for any number of threads. What no row may see is NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu.target import CHUNK, CPU
from graphllm.compiler.native.isa import Isa, cpu_features
from graphllm.ir.core import Module
from graphllm.ir.interpreter import interpret
from graphllm.ir.parser import parse_module
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from tests.cpu_models import cpu_device, quick_builds
from tests.lone_kernels import caches, close

__all__ = ["quick_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")
Array = NDArray[Any]
CONTEXT = 3 * CHUNK + 50
ENDS = (0, 1, 63, 64, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, CONTEXT - 1)  # positions that one row may have
TOGETHER = ((CONTEXT - 2, 1), (5, 0), (CHUNK + 7, 2))  # (position, slot) of rows of several sequences
SHAPES = ((8, 2, 64), (9, 1, 24), (23, 1, 16), (4, 4, 80), (32, 8, 8), (2, 1, 1))  # H, K, d


def module_of(shape: tuple[int, int, int], kv: str, window: int) -> Module:
    """Attention alone: of one row, of three sequences, of consecutive rows."""
    h, k, d = shape
    cache = f"{kv}[3,{k},{CONTEXT},{d}]"
    text = f"weight @table : f32[16,{h * d}]\nstate @k : {cache}\nstate @v : {cache}\n"
    op, names = "attention", "@k, @v"
    if kv == "i8":
        text += "".join(f"state @{n} : f32[3,{k},{CONTEXT},1]\n" for n in ("k.scale", "v.scale"))
        op, names = "attention_int8", "@k, @k.scale, @v, @v.scale"
    scale = d**-0.5 / (50 if kv == "i8" else 1)
    for name, rows, order in (("one", 1, ""), ("several", 3, ""), ("many", 37, "consecutive ")):
        t = f"i32[{rows}]"
        text += (
            f"func @{name}(%ids: {t}, %pos: {t}, %slot: {t}) {order}{{\n"
            f"  %flat = embed %ids, @table : f32[{rows},{h * d}]\n"
            f"  %q = reshape %flat {{shape=[{rows},{h},{d}]}} : f32[{rows},{h},{d}]\n"
            f"  %a = {op} %q, {names}, %pos, %slot {{scale={scale!r}, window={window}}} : f32[{rows},{h},{d}]\n"
            "  return %a\n}\n"
        )
    return run_passes(parse_module(text), lowering(CPU))[0]


def steps() -> list[tuple[str, list[int], list[int]]]:
    """(function, positions, slots) of every step that is tried."""
    out = [("one", [end], [2]) for end in ENDS]
    out.append(("several", [p for p, _ in TOGETHER], [s for _, s in TOGETHER]))
    out += [("several", [p], [s]) for p, s in TOGETHER[:1]]
    return out + [("many", list(range(first, first + 37)), [1] * 37) for first in (0, 50, CONTEXT - 37)]


def compare(shape: tuple[int, int, int], kv: str, window: int, isa: Isa | None = None) -> None:
    module = module_of(shape, kv, window)
    rng = np.random.default_rng(sum(shape) + window)
    table = rng.standard_normal((16, shape[0] * shape[2])).astype(np.float32)
    devices = [cpu_device(module, {"table": table}, threads=n, isa=isa) for n in (1, 2, 5)]
    for name, pos, slot in steps():
        function = module.functions[name]
        count = function.inputs[0].type.shape[0]
        given = {"ids": rng.integers(0, 16, len(pos)).astype(np.int32), "pos": np.array(pos, np.int32)}
        given["slot"] = np.array(slot, np.int32)
        held = caches(rng, module.states.values(), pos, slot)
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
            device.step(name, given)  # type: ignore[arg-type]
            rows = np.ndarray(result.type.shape, np.float32, device.arena, result.arena)
            found.append(rows[: len(pos)].copy())
        assert all(other.tobytes() == found[0].tobytes() for other in found), f"{name} at {pos}: threads"
        whole = {n: np.pad(a, (0, count - len(a)), constant_values=-1 if n == "pos" else 0) for n, a in given.items()}
        states = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in held.items()}
        with np.errstate(all="ignore"):
            (want,), _ = interpret(function, whole, lambda w: table, states, wide=True)
        close(found[0], want[: len(pos)], "f32", f"{shape} {kv} {name} at {pos}")


@pytest.mark.parametrize("window", [0, 300])
@pytest.mark.parametrize("kv", ["f32", "f16", "i8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_long_caches(shape: tuple[int, int, int], kv: str, window: int) -> None:
    compare(shape, kv, window)


@pytest.mark.parametrize("isa", ["avx2", "portable", "portable-native"])
@pytest.mark.parametrize("kv", ["f32", "f16", "i8"])
def test_fewer_instructions(kv: str, isa: Isa) -> None:
    if isa == "avx2" and not {"avx2", "fma", "f16c"} <= set(cpu_features().split()):
        pytest.skip("this CPU has no AVX2")
    compare((9, 1, 24), kv, 0, isa)
    compare((8, 2, 64), kv, 300, isa)
