"""Native code compiles for machines that this one is not: AArch64 with and without dot products, by zig where it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from graphllm.codegen.cpu.generate import generate
from graphllm.compiler.native import build
from tests.cpu_models import cpu_lowered
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
