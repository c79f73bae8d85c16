"""Kernels of the reference shapes for all architectures: how many there are, what they take, how they load weights."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.cuda_resources import launch_columns, parse_table, register_column
from graphllm.compiler.launches.report import resident
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.compiler.nvrtc.library import nvrtc_version
from graphllm.runtime.cuda.arch import ARCHS, LIMITS
from tests.cuda_programs import needs_nvrtc
from tests.reference_shapes import CASES, Shared, all_kernels, reference

TABLE = Path(__file__).parent / "golden" / "cuda_resources.txt"
WRITE = f"python -m benchmarks.cuda_kernels --write tests/golden/{TABLE.name}"
# What another NVRTC may take: more registers in decode, and too few bytes are on their way.
MOST_REGISTERS = {"decode": 128, "prefill_": 255}
IN_FLIGHT = 32 << 10  # bytes that a multiprocessor with work must have asked for, or all of its share
MOST_SPILLED = 64  # bytes, of a kernel for prompts
# To compile one takes a fifth of a second: a model has so many, and all of the models together.
KERNELS = {
    ("tinyllama-1.1b", "bf16"): 23,
    ("tinyllama-1.1b", "int8"): 23,
    ("llama-3.2-1b", "bf16"): 22,
    ("llama-3.2-1b", "int8"): 23,
    ("qwen2.5-0.5b", "bf16"): 22,
    ("qwen2.5-0.5b", "int8"): 21,
}
ALL_KERNELS = 105


def test_models_have_few_kernels() -> None:
    assert {case: len(reference(*case).program.kernels) for case in CASES} == KERNELS
    assert len(all_kernels()) == ALL_KERNELS


def test_launches_take_what_is_written_down() -> None:
    columns = parse_table(TABLE.read_text()).columns
    assert list(columns)[2:] == list(ARCHS)
    assert launch_columns(all_kernels()) == {name: columns[name] for name in list(columns)[:2]}, WRITE


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_and_take_what_is_written_down(arch: str) -> None:
    needs_nvrtc()
    wanted, table = all_kernels(), parse_table(TABLE.read_text())
    made = {kernel: cubin for (kernel, _), cubin in built([k.kernel for k in wanted], [arch]).items()}
    took = {name: cubin.resources for name, cubin in made.items()}
    if nvrtc_version().split()[0] == table.version:
        assert register_column(wanted, took) == table.columns[arch], WRITE
        assert {name: r for name, r in took.items() if r.spilled or r.stack or r.shared} == {}
    for shared in wanted:
        own = took[shared.kernel.name]
        for prefix, most in MOST_REGISTERS.items():
            assert own.registers <= most or not shared.of(prefix), (shared.kernel.name, own)
        allowed = 0 if shared.of("decode") else MOST_SPILLED
        assert arch == "sm_75" or own.spilled <= allowed, (shared.kernel.name, own)
        for launch in shared.launches():
            assert launch.shared + own.shared <= LIMITS[arch].shared
            assert resident(launch, own, arch) >= 1, launch.kernel
    products = [k for k in wanted if k.of("decode") and "linear" in k.kernel.name]
    ways = {re.findall(r"const (\w+)<.*> weights", k.kernel.text)[0]: k for k in products}
    assert set(ways) == {"Dense", "Groups"}
    for product in products if arch == "sm_90" else list(ways.values()):  # the disassembler takes its time
        _check_loads(product, made[product.kernel.name], arch)


def test_a_table_is_read_as_it_was_written() -> None:
    table = parse_table(TABLE.read_text())
    assert table.text() == TABLE.read_text()
    assert parse_table(table.text()) == table


def _check_loads(product: Shared, cubin: Cubin, arch: str) -> None:
    """Decode's weights come in 16 bytes a lane, past the first-level cache, the first before the wait, and enough."""
    tool = _disassembler()
    if tool is None:
        return
    name, code = product.kernel.name, _disassembled(str(tool), cubin.code)
    once = re.findall(r"\bLDG\.[\w.]*\bNA\b[\w.]*", code)
    assert once, name
    assert all(".128" in load for load in once), (name, once)
    assert not re.findall(r"\bLDG\.[\w.]*128[\w.]*", re.sub(r"\bLDG\.[\w.]*\bNA\b[\w.]*", "", code)), name
    assert not re.findall(r"\b(?:RED|ATOMG?)\.[\w.]*F32[\w.]*", code), name  # sums have one order
    limits = LIMITS[arch]
    if not limits.overlaps:
        return
    early, wait, _ = code.partition("ACQBULK")  # griddepcontrol.wait
    first = len(re.findall(r"\bLDG\.[\w.]*\bNA\b", early))
    assert wait
    assert not re.findall(r"\bSTG\b", early), name
    for launch in (x for x in product.launches() if x.chunked is False and x.op >= 0):
        beside = min(resident(launch, cubin.resources, arch), max(1, launch.grid[0] // limits.sms))
        weights = sum(a.moved for a in launch.accesses if a.early)
        flying, wanted = first * 16 * launch.block * beside, weights // min(launch.grid[0], limits.sms)
        assert flying >= min(IN_FLIGHT, wanted), (name, launch.grid, first, beside, wanted)


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
        command = [tool, "-c", "-ndf", str(file)]  # code alone, without the flow of data: that takes longer
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    finally:
        file.unlink(missing_ok=True)
