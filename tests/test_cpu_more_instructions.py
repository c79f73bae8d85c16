"""Native code for machines that have more than this one may: AVX-512 with VNNI and BF16, and AVX2 with VNNI, by way of
SIMDe, which says in plain C what their instructions do (``tests/simde/intrinsics.h``)."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.codegen.cpu.target import CPU
from graphllm.compiler.native import build
from graphllm.compiler.native.isa import cpu_features
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.passes.pipeline import lowering
from tests.cpu_models import PLAIN, cpu_device, cpu_lowered
from tests.kernel_checks import check, distinct_kernels, lone_module, own_states
from tests.lone_kernels import EXPERTS, LONE, LONG
from tests.lowered_models import Storage
from tests.precompiled import precompiled
from tests.shared_data import shared

SHIM = Path(__file__).parent / "simde" / "intrinsics.h"
HEADER = "#include <simde/x86/avx512/dpbf16.h>\n"
WIDTHS = {"AVX512": (64, "GRAPHLLM_DOT_BF16"), "AVXVNNI": (32, "GRAPHLLM_DOT_INT8")}


def missing() -> str:
    """What this machine lacks, in words; '' where it lacks nothing."""
    compiler = compiler_command()
    if compiler is None:
        return "no C++ compiler on this machine"
    if not {"avx2", "fma", "f16c"} <= set(cpu_features().split()):
        return "this CPU has no AVX2"
    done = subprocess.run(
        [*compiler, "-E", "-x", "c++", "-"], input=HEADER, capture_output=True, text=True, check=False
    )
    return "SIMDe is not installed (Debian: libsimde-dev)" if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(params=list(WIDTHS))
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is built is for such a machine, and runs on this one."""
    name: str = request.param
    monkeypatch.setenv("GRAPHLLM_ISA", "avx2")
    flags = (*PLAIN, "-w", f"-DGRAPHLLM_TEST_{name}", f'-DGRAPHLLM_INTRINSICS="{SHIM}"')
    monkeypatch.setattr(build, "FLAGS", precompiled(flags, "avx2"))
    return name


def test_the_code_is_that_of_the_machine(machine: str) -> None:
    width, dots = WIDTHS[machine]
    assert build.built(
        f'#include "gemm.h"\nstatic_assert(graphllm::WIDE == {width}, "");\n#if !defined({dots})\n#error\n#endif\n'
    )


def test_lone_operations(machine: str) -> None:
    """All that instructions of their own are used for; with VNNI alone that is integers."""
    words = ("linear", "attention", "embed", "quantize", "cast") if machine == "AVX512" else ("int8",)
    cases: dict[str, Any] = {n: body for n, body in (LONE | EXPERTS | LONG).items() if any(w in n for w in words)}
    module, arrays = lone_module(lowering(CPU), rows=(1, 5, 31), cases=cases)
    device = cpu_device(module, arrays, threads=2)
    for seed, function in enumerate(module.functions.values()):
        check(device, own_states(module, function), function, arrays, seed)


MODELS: dict[str, tuple[tuple[str, Storage, str], ...]] = {
    "AVX512": (("everything", "int8", "f16"), ("mqa", "bf16", "i8")),
    "AVXVNNI": (("everything", "int8", "i8"),),
}


def test_every_kernel_of_a_model(machine: str) -> None:
    for name, storage, kv_dtype in MODELS[machine]:
        model = cpu_lowered(name, storage, kv_dtype=kv_dtype)
        functions = {f.name: f for f in distinct_kernels(model.module)}
        module = replace(model.module, functions=functions)
        device = cpu_device(module, model.weights, threads=2)
        for seed, function in enumerate(functions.values()):
            check(device, module, function, model.weights, seed)


def test_a_whole_model(machine: str, tmp_path: Path) -> None:
    """The golden ids; and with int8 weights and activations the logits that NumPy gives."""
    source, golden = shared("real/stories260K/stories260K.bin"), shared("golden/stories260K")
    tokenizer = shared("real/stories260K/tok512.bin")
    meta = json.loads((golden / "meta.json").read_text(encoding="utf-8"))
    if machine == "AVX512":
        plan = graphllm.compile(source, tmp_path / "f32.gllm", tokenizer=tokenizer, target="cpu", kv_dtype="f32")
        facts = json.loads((golden / "greedy.json").read_text(encoding="utf-8"))[0]
        answer = graphllm.load(plan.path, device="cpu").generate(facts["prompt_ids"], max_tokens=60, ignore_eos=True)
        assert list(answer.tokens) == facts["greedy_ids"][:60]
    plan = graphllm.compile(
        source, tmp_path / "int8.gllm", tokenizer=tokenizer, target="cpu", quantize="int8-dynamic", kv_dtype="f16"
    )
    want, got = (graphllm.load(plan.path, device=d).logits(meta["logits32_ids"]) for d in ("numpy", "cpu"))  # type: ignore[arg-type]
    assert np.abs(got - want).max() <= 1e-2 * np.abs(want).max()
