"""``doctor``: what it finds on this machine, and what it says of one where things are missing or broken."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from graphllm.cli import main
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.measure import bandwidth
from graphllm.measure.bandwidth import read_bandwidth
from graphllm.measure.doctor.cpu_backend import cpu_backend
from graphllm.measure.doctor.cuda_backend import gpus
from graphllm.measure.doctor.examine import SECTIONS
from graphllm.measure.doctor.finding import Finding, Section, findings_text
from graphllm.measure.doctor.storage import storage
from tests.fake_bindings import NO_DEVICE, FakeCuda

SMALL = 4 << 20


@pytest.fixture(autouse=True)
def little_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER", SMALL)
    monkeypatch.setattr(bandwidth, "LEAST", SMALL)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine on whose path there is nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("graphllm.compiler.native.toolchain.find_spec", lambda name: None)


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {f.what: f for f in findings}


def test_every_section_is_told_and_numpy_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    for name, _ in SECTIONS:
        assert re.search(rf"^{name}$", page, re.MULTILINE)
    assert np.__version__ in page


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    sections = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in sections] == [name for name, _ in SECTIONS]
    assert all({"what", "value", "state", "fix"} == f.keys() for s in sections for f in s["findings"])


@pytest.mark.usefixtures("no_compiler")
def test_a_missing_compiler_is_absent_and_one_command_brings_it() -> None:
    found = by_name(cpu_backend())
    assert found["C++ compiler"].state == "absent"
    assert found["C++ compiler"].fix == "pip install ziglang"
    assert "(numpy)" in found["memory read"].value


def test_a_compiler_that_fails_is_broken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = tmp_path / "c++"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1.0 && exit 0\necho "error: no headers" >&2\nexit 1\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    found = by_name(cpu_backend())
    assert found["native code"].state == "broken"
    assert "no headers" in found["native code"].value
    assert main(["doctor"]) == 1
    assert "1 broken" in capsys.readouterr().out


def test_every_gpu_is_listed_and_one_that_cannot_be_used_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(capability=(9, 0))
    cuda.others = {1: (7, 0), 2: (8, 6)}
    monkeypatch.setattr("graphllm.runtime.cuda.calls._bindings", lambda: cuda)
    found = by_name(gpus())
    assert list(found) == ["cuda:0", "cuda:1", "cuda:2"]
    said = "NVIDIA Fake 100, compute capability {}, CUDA 13.0, kernels for {}, 1.07 GB of 2.15 GB free"
    assert found["cuda:0"] == Finding("cuda:0", said.format("9.0", "sm_90"))
    assert found["cuda:2"] == Finding("cuda:2", said.format("8.6", "sm_86"))
    assert (found["cuda:1"].state, cuda.retained) == ("broken", 0)
    assert found["cuda:1"].value.startswith("GPU of compute capability 7.0: not supported; kernels are made for sm_75")


def test_why_there_is_no_gpu_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr("graphllm.runtime.cuda.calls._bindings", lambda: cuda)
    cuda.fail["cuInit"] = NO_DEVICE
    (one,) = gpus()
    assert (one.what, one.state) == ("GPUs", "broken")
    assert "no GPU is visible" in one.value
    cuda.version = 12080
    (one,) = gpus()
    assert one.value == "cuda: the driver is for CUDA 12.8; expected 13.0 or later: install driver 580 or later"


def test_a_cache_for_others_to_write_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path))
    (found,) = storage()
    assert found.state == "broken"
    assert "GRAPHLLM_CACHE" in found.fix


def test_an_unknown_default_target_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRAPHLLM_TARGET", "tpu")
    assert main(["doctor"]) == 1
    assert "unset GRAPHLLM_TARGET" in capsys.readouterr().out


def test_a_page_counts_what_it_tells() -> None:
    page = findings_text([Section("a", (Finding("x", "1"), Finding("y", "2", "absent", "pip install y")))])
    assert "fix: pip install y" in page
    assert page.endswith("0 broken, 1 absent")
    assert findings_text([Section("a", (Finding("x", "1"),))]).endswith("all is there")


@pytest.mark.parametrize("threads", [1, 3])
def test_the_native_reader_reads_every_word(threads: int) -> None:
    """Bits of what it gives depend on all of the buffer, whatever it is."""
    if compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    import ctypes

    library = ctypes.CDLL(str(bandwidth.reader_library()))
    room = np.zeros((1 << 15) + 64, np.uint8)
    start = -room.ctypes.data % 64
    words = room[start : start + (1 << 15)].view(np.uint64)
    rng = np.random.default_rng(threads)
    words[:] = rng.integers(0, 1 << 63, len(words), dtype=np.uint64)
    expected = int(np.bitwise_xor.reduce(words))
    for read in (library.read_in_order, library.read_in_rows):
        read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
        assert read(words.ctypes.data, words.nbytes) == expected
    found = read_bandwidth(threads, buffer=SMALL, rounds=2)
    assert (found.threads, found.buffer, found.how) == (threads, SMALL, "native")
    assert found.bytes_per_second > 0
