"""Every kernel of the reference shapes, compiled for every architecture: what it takes, and how it loads weights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from graphllm.compiler.launches.report import resident
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.runtime.cuda.arch import LIMITS
from tests.cuda_programs import needs_nvrtc
from tests.reference_shapes import REFERENCE, CudaModel, Stored, reference

# sm_90 has every shape both ways, the others one shape each: a kernel's text depends on the shape, not on the card
JOBS: list[tuple[str, str, Stored]] = [("sm_90", name, stored) for name in REFERENCE for stored in ("bf16", "int8")]
JOBS += [
    ("sm_75", "llama-3.2-1b", "int8"),
    ("sm_80", "tinyllama-1.1b", "bf16"),
    ("sm_86", "qwen2.5-0.5b", "int8"),
    ("sm_89", "llama-3.2-1b", "bf16"),
    ("sm_90a", "qwen2.5-0.5b", "bf16"),
    ("sm_100", "tinyllama-1.1b", "int8"),
    ("sm_120", "llama-3.2-1b", "bf16"),
]
MOST_REGISTERS = {"decode": 128, "prefill_": 255}  # loosely: more in decode, and too few bytes are on their way


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    needs_nvrtc()


@pytest.mark.parametrize(("arch", "name", "stored"), JOBS)
def test_kernels_compile_and_take_what_they_may(arch: str, name: str, stored: Stored) -> None:
    model = reference(name, stored)
    made = {kernel: cubin for (kernel, _), cubin in built(model.program.kernels.values(), [arch]).items()}
    assert set(made) == set(model.program.kernels)
    resources = {kernel: cubin.resources for kernel, cubin in made.items()}
    for prefix, most in MOST_REGISTERS.items():
        kernels = model.kernels_of(prefix)
        assert {k: r.registers for k, r in resources.items() if k in kernels and r.registers > most} == {}
    if arch != "sm_75":
        decode = model.kernels_of("decode")
        assert {k: r.spilled for k, r in resources.items() if k in decode and r.spilled} == {}
    for stream in model.program.streams.values():
        for launch in (*stream.launches, *stream.choice):
            assert launch.shared + resources[launch.kernel].shared <= LIMITS[arch].shared
            assert resident(launch, resources[launch.kernel], arch) >= 1, launch.kernel
    _check_loads(model, made)


def _check_loads(model: CudaModel, made: Mapping[str, Cubin]) -> None:
    """Decode's weights come in 16 bytes a lane, past the first-level cache."""
    tool = _disassembler()
    if tool is None:
        return
    products = {k for k in model.kernels_of("decode") if "linear" in k}
    assert products
    for kernel in products:
        loads = re.findall(r"\bLDG\.[\w.]+", _disassembled(tool, made[kernel].code))
        assert any(re.search(r"\.128\b", load) for load in loads), (kernel, sorted(set(loads)))


def test_a_disassembler_is_there() -> None:
    if _disassembler() is None:
        pytest.skip("no nvdisasm on this machine: that weights are loaded 16 bytes at a time was not looked at")


def _disassembler() -> str | None:
    if (path := shutil.which("nvdisasm")) is not None:
        return path
    spec = find_spec("nvidia")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    found = [tool for place in places for tool in Path(place).glob("*/bin/nvdisasm")]
    return str(found[0]) if found else None


def _disassembled(tool: str, code: bytes) -> str:
    folder = Path(os.environ.get("PYTEST_TMP", "/tmp"))
    file = folder / f"graphllm-{os.getpid()}.cubin"
    try:
        file.write_bytes(code)
        return subprocess.run([tool, "-c", str(file)], capture_output=True, text=True, check=True, timeout=60).stdout
    finally:
        file.unlink(missing_ok=True)
