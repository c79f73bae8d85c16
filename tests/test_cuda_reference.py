"""Kernels of the reference shapes for all architectures: how many there are, what they take, how they load weights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from graphllm.compiler.launches.report import resident
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.runtime.cuda.arch import ARCHS, LIMITS
from tests.cuda_programs import needs_nvrtc
from tests.reference_shapes import CASES, Shared, Stored, all_kernels, reference

# sm_90 has every kernel. A text depends on the shape and not on the card, so generations of cards have one shape each,
# and their younger siblings what decides about speed: its decode. benchmarks/cuda_kernels.py compiles all for all.
COVERED: dict[str, tuple[str, Stored, str]] = {
    "sm_75": ("llama-3.2-1b", "int8", ""),
    "sm_80": ("tinyllama-1.1b", "bf16", ""),
    "sm_86": ("qwen2.5-0.5b", "int8", "decode"),
    "sm_89": ("llama-3.2-1b", "bf16", "decode"),
    "sm_90a": ("qwen2.5-0.5b", "bf16", "decode"),
    "sm_100": ("tinyllama-1.1b", "int8", "decode"),
    "sm_120": ("llama-3.2-1b", "bf16", "decode"),
}
MOST_REGISTERS = {"decode": 128, "prefill_": 255}  # loosely: more in decode, and too few bytes are on their way
MOST_SPILLED = 64  # bytes, of a kernel for prompts
# To compile one takes a third of a second: a model has so many, and all of the models together.
KERNELS = {
    ("tinyllama-1.1b", "bf16"): 23,
    ("tinyllama-1.1b", "int8"): 25,
    ("llama-3.2-1b", "bf16"): 22,
    ("llama-3.2-1b", "int8"): 25,
    ("qwen2.5-0.5b", "bf16"): 21,
    ("qwen2.5-0.5b", "int8"): 23,
}
ALL_KERNELS = 110


def test_models_have_few_kernels() -> None:
    assert {case: len(reference(*case).program.kernels) for case in CASES} == KERNELS
    assert len(all_kernels()) == ALL_KERNELS


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_and_take_what_they_may(arch: str) -> None:
    needs_nvrtc()
    name, stored, functions = COVERED.get(arch, ("", "bf16", ""))
    models = [reference(name, stored)] if name else [reference(*case) for case in CASES]
    wanted = [k for k in all_kernels() if k.of(functions, models=models)]
    made = {kernel: cubin for (kernel, _), cubin in built([k.kernel for k in wanted], [arch]).items()}
    assert len(made) == len(wanted) >= 7
    for shared in wanted:
        took = made[shared.kernel.name].resources
        for prefix, most in MOST_REGISTERS.items():
            assert took.registers <= most or not shared.of(prefix), (shared.kernel.name, took)
        assert arch == "sm_75" or took.spilled <= (0 if shared.of("decode") else MOST_SPILLED), (
            shared.kernel.name,
            took,
        )
        for model, own in shared.users:
            for stream in model.program.streams.values():
                for launch in (x for x in (*stream.launches, *stream.choice) if x.kernel == own):
                    assert launch.shared + took.shared <= LIMITS[arch].shared
                    assert resident(launch, took, arch) >= 1, launch.kernel
    _check_loads([k for k in wanted if k.of("decode") and "linear" in k.kernel.name], made)


def _check_loads(products: Sequence[Shared], made: Mapping[str, Cubin]) -> None:
    """Decode's weights come in 16 bytes a lane, past the first-level cache."""
    tool = _disassembler()
    assert products
    for product in products if tool is not None else ():
        loads = re.findall(r"\bLDG\.[\w.]+", _disassembled(str(tool), made[product.kernel.name].code))
        assert any(re.search(r"\.128\b", load) for load in loads), (product.kernel.name, sorted(set(loads)))


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
