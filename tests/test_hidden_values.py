"""What a row of a prompt does not see does not reach it, be it NaN or infinite: later rows' keys and values, and those
that have left its window. On every target, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu.target import CPU
from graphllm.codegen.cuda.target import CUDA
from graphllm.codegen.kernels.numpy.attention import bind_block, scratch_floats
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.ir.core import Module
from graphllm.ir.parser import parse_module
from graphllm.ir.target import Target
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from tests.cpu_models import cpu_device, quick_builds
from tests.cuda_open_device import OpenDevice

__all__ = ["quick_builds"]
Array = NDArray[Any]
ROWS, HEADS, KV_HEADS, D, CONTEXT, SLOT = 70, 4, 2, 24, 150, 1
CASES = (("f16", 0), ("bf16", 7), ("f32", 40), ("i8", 0), ("f16", 50))  # kind of cache, window
Run = Callable[[int, int], Array]  # first position and live rows -> results [live,H,d]


def module_of(target: Target) -> Module:
    """Attention of consecutive rows, alone, once for each case."""
    lines = [f"weight @table : f32[16,{HEADS * D}]"]
    t, y = f"i32[{ROWS}]", f"f32[{ROWS},{HEADS},{D}]"
    for number, (kv, window) in enumerate(CASES):
        shape, op, names = f"[2,{KV_HEADS},{CONTEXT},{D}]", "attention", f"@k{number}, @v{number}"
        lines += [f"state @{side}{number} : {kv}{shape}" for side in "kv"]
        if kv == "i8":
            lines += [f"state @{side}{number}.s : f32[2,{KV_HEADS},{CONTEXT},1]" for side in "kv"]
            op, names = "attention_int8", f"@k{number}, @k{number}.s, @v{number}, @v{number}.s"
        lines.append(
            f"func @f{number}(%ids: {t}, %pos: {t}, %slot: {t}) consecutive {{\n"
            f"  %flat = embed %ids, @table : f32[{ROWS},{HEADS * D}]\n"
            f"  %q = reshape %flat {{shape=[{ROWS},{HEADS},{D}]}} : {y}\n"
            f"  %a = {op} %q, {names}, %pos, %slot {{scale=0.02, window={window}}} : {y}\n"
            "  return %a\n}"
        )
    return run_passes(parse_module("\n".join(lines)), lowering(target))[0]


def on_device(target: Target) -> Callable[[int], tuple[Mapping[str, Array], Run]]:
    module = module_of(target)
    rng = np.random.default_rng()
    tables = {"table": rng.standard_normal((16, HEADS * D)).astype(np.float32)}
    ids = rng.integers(0, 16, ROWS).tolist()
    device: Any = cpu_device(module, tables) if target is CPU else OpenDevice(module, tables, watch=True)

    def case(number: int) -> tuple[Mapping[str, Array], Run]:
        result = module.functions[f"f{number}"].results[0]
        assert result.arena is not None

        def run(start: int, live: int) -> Array:
            device.arena.fill(0xFF)
            pos = [start + t for t in range(live)]
            device.step(f"f{number}", {"ids": ids[:live], "pos": pos, "slot": [SLOT] * live})
            return np.ndarray(result.type.shape, np.float32, device.arena, result.arena)[:live].copy()

        own = {n[0] + n[len(f"k{number}") :]: a for n, a in device.states.items() if n.split(".")[0][1:] == str(number)}
        return own, run

    return case


def on_numpy() -> Callable[[int], tuple[Mapping[str, Array], Run]]:
    rng = np.random.default_rng()

    def case(number: int) -> tuple[Mapping[str, Array], Run]:
        kv, window = CASES[number]
        module = module_of(CPU)
        kinds = {
            s: module.states[f"{s[0]}{number}{s[1:]}"].type for s in (("k", "k.s", "v", "v.s") if kv == "i8" else "kv")
        }
        held = {name: np.zeros(t.shape, t.numpy) for name, t in kinds.items()}
        q = rng.standard_normal((ROWS, HEADS, D)).astype(np.float32)
        out = np.empty_like(q)
        keys, values = (tuple(a for n, a in held.items() if n[0] == side) for side in "kv")
        scratch = np.empty(scratch_floats(q.shape, keys[0].shape, kv != "f32"), np.float32)
        step = bind_block(q, keys, values, out, scratch, 0.02, window)

        def run(start: int, live: int) -> Array:
            scratch.fill(np.nan)
            with np.errstate(all="ignore"):
                step(start, live, SLOT)
            return out[:live].copy()

        return held, run

    return case


@pytest.mark.parametrize("target", ["numpy", "cpu", "cuda"])
def test_what_a_row_does_not_see_does_not_reach_it(target: str, quick_builds: None) -> None:
    if target != "numpy" and compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    case = on_numpy() if target == "numpy" else on_device(CPU if target == "cpu" else CUDA)
    rng = np.random.default_rng()
    for number, (kv, window) in enumerate(CASES):
        states, run = case(number)
        for start, live in ((0, ROWS), (45, 33), (9, 7)):
            fresh(rng, states, start + live)
            clean = run(start, live)
            assert np.isfinite(clean).all()
            for bad in (np.nan, np.inf, -np.inf):
                head, e = int(rng.integers(KV_HEADS)), int(rng.integers(D))
                at = int(rng.integers(max(0, start + 1 - window) if window else start + 1, start + live))
                for side in "kv":
                    array = states[f"{side}.s" if kv == "i8" else side]
                    place = (SLOT, head, at, 0 if kv == "i8" else e)
                    before = array[place]
                    array[place] = bad
                    found = run(start, live)
                    array[place] = before
                    what = f"{kv}, window {window}: {bad} in {side} at {at}, rows from {start}"
                    p = start + np.arange(live)
                    sees = (p >= at) & ((p < at + window) if window else True)
                    assert found[~sees].tobytes() == clean[~sees].tobytes(), what
                    if side == "v":  # and where it is seen, it shows, in its own column
                        own = found[sees, head * 2 : head * 2 + 2]
                        assert not np.isfinite(own if kv == "i8" else own[..., e]).any(), what
                        others = np.delete(found, [head * 2, head * 2 + 1], axis=1)
                        assert others.tobytes() == np.delete(clean, [head * 2, head * 2 + 1], axis=1).tobytes(), what
            assert run(start, live).tobytes() == clean.tobytes()


def fresh(rng: np.random.Generator, states: Mapping[str, Array], end: int) -> None:
    """Random caches up to a position; NaN behind it, and in other slots."""
    for name, array in states.items():
        whole = array.dtype == np.int8
        array[...] = -128 if whole else np.nan
        seen = array[SLOT, :, :end]
        seen[...] = rng.integers(-127, 128, seen.shape) if whole else rng.standard_normal(seen.shape)
        if name.endswith(".s"):
            np.abs(seen, out=seen)
