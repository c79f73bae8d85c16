"""Products on tensor cores on the simulator, against their own bodies in float64: odd sizes, tails, several rows.

What the real machine's tensor cores round away of long sums no simulator knows: it adds up in f32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.nvrtc.build import built
from graphllm.ir import ops
from graphllm.ir.core import Function, Module, State, Value, Weight
from graphllm.ir.types import DType, TensorType
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from tests.cuda_open_device import OpenDevice, cuda_lowered, needs_a_compiler
from tests.cuda_programs import needs_nvrtc
from tests.kernel_checks import Gathered, check, distinct_kernels, own_states
from tests.lone_kernels import fresh
from tests.lowered_models import Storage

__all__ = ["needs_a_compiler"]

Body = Callable[[Gathered, int, int], Value]


def _cast(dtype: DType) -> Body:
    def body(s: Gathered, n: int, k: int) -> Value:
        out: Value = ops.linear(s.x(s.t, k), ops.cast(s.weight(n, k, dtype=dtype), dtype="f32"))
        return out

    return body


def _normed(s: Gathered, n: int, k: int) -> Value:
    x = s.x(s.t, k)
    y: Value = ops.linear(
        ops.rmsnorm(x, s.weight(k, name="gain"), eps=1e-5), ops.cast(s.weight(n, k, dtype="f16"), dtype="f32")
    )
    return y


def _narrow(s: Gathered, n: int, k: int) -> Value:
    x = ops.rmsnorm(s.x(s.t, k), s.weight(k, name="gain"), eps=1e-5)
    y: Value = ops.linear(ops.cast(x, dtype="bf16"), s.weight(n, k, dtype="bf16"), out="f32")
    return y


def _groups(group: int, flat: bool = False) -> Body:
    def body(s: Gathered, n: int, k: int) -> Value:
        shape = (n * k // group,) if flat else (n, -(-k // group))
        scale = s.weight(*shape, name="scale", dtype="f16")
        out: Value = ops.linear(s.x(s.t, k), ops.dequantize(s.weight(n, k, dtype="i8"), scale, group=group))
        return out

    return body


FEW_CASES: dict[str, tuple[Body, tuple[tuple[int, int], ...]]] = {
    "bf16": (_cast("bf16"), ((100, 48), (33, 100), (48, 896), (24, 2600))),
    "f16": (_cast("f16"), ((100, 48), (7, 1000))),
    "f16 normed": (_normed, ((48, 136), (20, 1800))),
    "bf16 both": (_narrow, ((100, 48), (130, 520))),
    "int8": (_groups(64), ((100, 128), (33, 896), (48, 1100))),
    "int8 short groups": (_groups(32), ((100, 96), (33, 900))),
    "int8 flat": (_groups(64, flat=True), ((20, 192),)),
}


MANY_CASES: dict[str, tuple[Body, tuple[tuple[int, int], ...]]] = {
    "bf16": (_cast("bf16"), ((100, 48), (33, 1032))),
    "f16": (_cast("f16"), ((70, 136),)),
    "f16 normed": (_normed, ((20, 264),)),
    "bf16 both": (_narrow, ((100, 48), (130, 520))),
    "int8": (_groups(64), ((100, 128), (33, 464))),
    "int8 short groups": (_groups(32), ((100, 96), (33, 208))),
    "int8 flat": (_groups(64, flat=True), ((20, 192),)),
}
FEW = ((2, 17), (8, 32), (5, 9))
MANY = ((33,), (150,), (70,))


def _module(cases: dict[str, tuple[Body, tuple[tuple[int, int], ...]]], rows: tuple[tuple[int, ...], ...]) -> Module:
    """A function for every case and size, with some of the numbers of rows."""
    weights, functions = dict[str, Weight](), dict[str, Function]()
    for name, (body, sizes) in cases.items():
        for n, k in sizes:
            for t in rows[len(functions) % len(rows)]:
                title = f"{name}_{n}_{k}_{t}".replace(" ", "_")
                scope = Gathered(t, title)
                with scope.builder as b:
                    functions[title] = b.function(title, [body(scope, n, k)], [], "independent")
                weights |= {w.name: w for w in scope.weights.values()}
    module, _ = run_passes(Module(weights, {}, functions), lowering(CUDA))
    return module


def _proved(module: Module, arch: str, stems: set[str]) -> None:
    program = generate(module)
    assert stems <= {name.rpartition("_")[0] for name in program.kernels}
    rng = np.random.default_rng(1)
    arrays = {n: fresh(rng, w.type) for n, w in module.weights.items()}
    device = OpenDevice(module, arrays, arch=arch, seed=2, program=program)
    for seed, function in enumerate(module.functions.values()):
        check(device, own_states(module, function), function, arrays, seed)


def test_few_rows() -> None:
    _proved(_module(FEW_CASES, FEW), "sm_90", {"linear_mma", "norm_linear_mma"})


def test_many_rows() -> None:
    stems = {"linear_mma_tiles", "norm_linear_mma_tiles", "stage_rows", "stage_norm"}
    _proved(_module(MANY_CASES, MANY), "sm_90", stems)


def test_a_machine_without_bf16_and_copies() -> None:
    cases = {name: (body, sizes[:1]) for name, (body, sizes) in MANY_CASES.items()}
    _proved(_module(cases, ((3, 40),)), "sm_75", {"linear_mma", "linear_mma_tiles"})


@pytest.mark.parametrize(("name", "storage"), [("window_mixed", "bf16"), ("qk_norm_bias_interleaved", "f16")])
def test_what_follows_a_product_of_many_rows(name: str, storage: Storage) -> None:
    model = cuda_lowered(name, storage, kv_dtype="f16", prefill=(40,))
    functions = {f.name: f for f in distinct_kernels(model.module) if f.name.startswith("prefill")}
    module = replace(model.module, functions=functions)
    device = OpenDevice(module, model.weights, seed=3)
    assert sum("_mma_tiles" in name for name in device.program.kernels) >= 3
    for seed, function in enumerate(functions.values()):
        check(device, module, function, model.weights, seed)


ATTENTION: tuple[tuple[DType, int, int, int], ...] = (  # cache, d, rows, window
    ("f16", 64, 70, 0),
    ("f16", 40, 33, 0),
    ("bf16", 96, 20, 0),
    ("f16", 8, 130, 50),
    ("bf16", 16, 40, 1),
)


@pytest.mark.parametrize("arch", ["sm_90", "sm_75"])
def test_attention_of_a_prompt(arch: str) -> None:
    states, functions, weights = dict[str, State](), dict[str, Function](), dict[str, Weight]()
    for dtype, d, rows, window in ATTENTION if arch == "sm_90" else ATTENTION[1:3]:
        title = f"attention_{dtype}_{d}_{rows}"
        scope = Gathered(rows, title)
        kept = [State(f"{title}.{side}", TensorType(dtype, (2, 2, 150, d))) for side in "kv"]
        with scope.builder as b:
            y = ops.attention(scope.x(rows, 4, d), *kept, scope.pos, scope.slot, scale=d**-0.5, window=window)
            functions[title] = b.function(title, [y], [], "consecutive")
        weights |= {w.name: w for w in scope.weights.values()}
        states |= {s.name: s for s in kept}
    module, _ = run_passes(Module(weights, states, functions), lowering(CUDA))
    _proved(module, arch, {"attention_mma"})


def _prompt(d: int, dtype: DType) -> Module:
    """Attention of many rows, of a size that models have."""
    scope = Gathered(512, f"prompt{d}")
    kept = [State(f"prompt.{side}", TensorType(dtype, (1, 8, 4096, d))) for side in "kv"]
    with scope.builder as b:
        y = ops.attention(scope.x(512, 32, d), *kept, scope.pos, scope.slot, scale=d**-0.5, window=0)
        function = b.function("prompt", [y], [], "consecutive")
    weights = {w.name: w for w in scope.weights.values()}
    return run_passes(Module(weights, {s.name: s for s in kept}, {"prompt": function}), lowering(CUDA))[0]


def test_registers_hold_what_tensor_cores_work_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_nvrtc()
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path))
    size = ((4096, 4096),)
    few = _module({"int8": (_groups(64), size), "bf16": (_cast("bf16"), size)}, ((8,),))
    many = _module({"int8": (_groups(64), size), "bf16": (_narrow, size)}, ((512,),))
    kernels = [k for m in (few, many, _prompt(128, "f16")) for k in generate(m).kernels.values() if "_mma" in k.name]
    assert len(kernels) == 5
    kernels = [replace(k, name=f"k{i}", text=k.text.replace(k.name, f"k{i}")) for i, k in enumerate(kernels)]
    for (name, arch), cubin in built(kernels, ("sm_75", "sm_80", "sm_90", "sm_120")).items():
        assert arch == "sm_75" or cubin.resources.spilled == 0, (name, arch, cubin.resources)
        most = 192 if name == "k4" else 160 if arch == "sm_75" else 128
        assert cubin.resources.registers <= most, (name, arch, cubin.resources)
