"""Native code for machines that this one is not: AArch64 with and without dot products, compiled by zig where it is and
run under an emulator where there is one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.target import CPU
from graphllm.compiler.native import build
from graphllm.passes.pipeline import lowering
from tests.cpu_models import cpu_lowered
from tests.emulated_device import EmulatedDevice, missing
from tests.kernel_checks import check, distinct_kernels, lone_module, own_states
from tests.lowered_models import Storage


@pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed: nothing crosses over"
)
@pytest.mark.parametrize("cpu", ["neoverse_n1", "generic"])
@pytest.mark.parametrize("storage", ["bf16", "int8"])
def test_aarch64(tmp_path: Path, cpu: str, storage: Storage) -> None:
    source, made = tmp_path / "plan.cpp", tmp_path / "plan.o"
    source.write_text(generate(cpu_lowered("everything", storage, kv_dtype="f16").module), encoding="utf-8")
    flags = [flag for flag in build.FLAGS if flag != "-shared"]
    target = ["-target", "aarch64-linux-gnu", f"-mcpu={cpu}", "-I", str(build.HEADERS), "-Werror=conversion-null"]
    command = [sys.executable, "-m", "ziglang", "c++", *target, *flags, "-c", str(source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert made.read_bytes()[:5] == b"\x7fELF\x02"
    assert made.read_bytes()[18:20] == b"\xb7\x00"  # EM_AARCH64


DOTS = "armv8.2-a+dotprod"


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize(
    ("march", "name", "storage", "kv_dtype"),
    [(DOTS, "everything", "int8", "f16"), (DOTS, "mqa", "bf16", "i8"), ("armv8-a", "everything", "int8", "f32")],
)
def test_every_kernel_under_an_emulator(tmp_path: Path, march: str, name: str, storage: Storage, kv_dtype: str) -> None:
    model = cpu_lowered(name, storage, kv_dtype=kv_dtype)
    functions = {f.name: f for f in distinct_kernels(model.module) if not f.name.startswith("prefill_32")}
    module = replace(model.module, functions=functions)
    device = EmulatedDevice(module, model.weights, tmp_path, march, threads=2)
    for seed, function in enumerate(functions.values()):
        check(device, module, function, model.weights, seed)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_integer_products_under_an_emulator(tmp_path: Path) -> None:
    module, arrays = lone_module(lowering(CPU), rows=(1, 5, 31))
    module = replace(module, functions={n: f for n, f in module.functions.items() if "int8" in n})
    device = EmulatedDevice(module, arrays, tmp_path, DOTS)
    for seed, function in enumerate(module.functions.values()):
        check(device, own_states(module, function), function, arrays, seed)
