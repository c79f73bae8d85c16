"""Kernels become machine code without a GPU: compiled once, kept, found again, and never believed when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from graphllm.compiler.nvrtc import build, crew, library
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.cubin import Cubin, Resources
from graphllm.compiler.nvrtc.kept import kept_cubins, key_of
from graphllm.errors import DeviceError, GraphLLMError, NativeError
from graphllm.plan.launch import Kernel
from graphllm.runtime.cuda.arch import ARCHS, arch_for, check_archs, runs_on
from tests.cuda_programs import DOUBLE, kernel, needs_nvrtc


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were compiled in this process, in order."""
    needs_nvrtc()
    seen: list[str] = []

    def counted(text: str, name: str, *rest: Any) -> Any:
        seen.append(name)
        return library.compile_text(text, name, *rest)

    monkeypatch.setattr(build, "compile_text", counted)
    return seen


def test_every_architecture_is_compiled_for_without_a_gpu(compilations: list[str]) -> None:
    made = built([DOUBLE], ARCHS, processes=1)
    assert set(made) == {("twice", arch) for arch in ARCHS}
    for cubin in made.values():
        assert cubin.code[:4] == b"\x7fELF"
        assert 0 < cubin.resources.registers <= 32
        assert cubin.resources.spilled == 0
    assert len({cubin.code for cubin in made.values()}) == len(ARCHS)


def test_what_is_kept_is_not_compiled_again(compilations: list[str]) -> None:
    said: list[str] = []
    first = built([DOUBLE], ["sm_90"], said.append)
    assert compilations == ["twice.cu"]
    assert said == ["compiling 1 kernels for sm_90, once"]
    assert built([DOUBLE], ["sm_90"], said.append) == first
    assert len(compilations) == len(said) == 1
    built([DOUBLE], ["sm_90", "sm_80"])
    assert len(compilations) == 2


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "no log", "other log"])
def test_damaged_code_is_compiled_again(damage: str, compilations: list[str]) -> None:
    good = built([DOUBLE], ["sm_80"])
    (code,) = (p for p in kept_cubins() if p.suffix == ".cubin")
    (log,) = (p for p in kept_cubins() if p.suffix == ".log")
    content = code.read_bytes()
    if damage == "flip":
        code.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "truncate":
        code.write_bytes(content[:-1])
    elif damage == "empty":
        code.write_bytes(b"")
    elif damage == "no log":
        log.unlink()
    else:
        log.write_bytes(b"\xff\xfe")
    assert built([DOUBLE], ["sm_80"]) == good
    assert len(compilations) == 2
    assert built([DOUBLE], ["sm_80"]) == good
    assert len(compilations) == 2


def test_foreign_code_under_our_name_is_not_used(compilations: list[str]) -> None:
    good = built([DOUBLE], ["sm_80"])
    (code,) = (p for p in kept_cubins() if p.suffix == ".cubin")
    other = built([kernel("twice", "    y[0] = 3;")], ["sm_80"])["twice", "sm_80"]
    code.write_bytes(other.code)
    assert built([DOUBLE], ["sm_80"]) == good


def test_the_name_depends_on_all_that_goes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [build._key(DOUBLE, "sm_90", "13.5")]
    names += [build._key(DOUBLE, "sm_90a", "13.5"), build._key(DOUBLE, "sm_90", "13.6")]
    names += [build._key(Kernel("other", DOUBLE.text, ""), "sm_90", "13.5")]
    names += [build._key(Kernel("twice", DOUBLE.text + " ", ""), "sm_90", "13.5")]
    with monkeypatch.context() as m:
        m.setattr(build, "OPTIONS", (*build.OPTIONS, "-G"))
        names.append(build._key(DOUBLE, "sm_90", "13.5"))
    with monkeypatch.context() as m:
        m.setattr(build, "headers", lambda: {"prelude.cuh": ""})
        names.append(build._key(DOUBLE, "sm_90", "13.5"))
    assert len(set(names)) == len(names)
    assert key_of(("ab", "c")) != key_of(("a", "bc"))


def test_several_processes_share_the_work(compilations: list[str]) -> None:
    kernels = [kernel(f"k{i}", f"    y[threadIdx.x] = x[threadIdx.x] + {i};") for i in range(6)]
    made = built(kernels, ["sm_90"], processes=2)
    assert set(made) == {(k.name, "sm_90") for k in kernels}
    assert made == built(kernels, ["sm_90"], processes=1)
    assert len(compilations) <= 6  # ours; the others were compiled elsewhere


def test_without_helpers_the_work_is_done_all_the_same(
    compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew.sys, "executable", "/bin/false")
    kernels = [kernel(f"k{i}", f"    y[threadIdx.x] = x[threadIdx.x] + {i};") for i in range(5)]
    assert len(built(kernels, ["sm_90"], processes=2)) == len(compilations) == 5


def test_a_failure_in_a_helper_is_told_as_ours() -> None:
    needs_nvrtc()
    kernels = [kernel(f"k{i}", "    y[0] = nothing;") for i in range(5)]
    with pytest.raises(NativeError, match=r'^kernel k\d for sm_90: line 4 .*identifier "nothing" is undefined'):
        built(kernels, ["sm_90"], processes=2)


def test_an_error_names_kernel_line_and_operation() -> None:
    needs_nvrtc()
    bad = kernel("gate_up", "    int n = 1;\n    y[0] = nothing;", ir="%u = linear %h, @w : f32[1,64]\n%v = silu %u")
    with pytest.raises(NativeError) as caught:
        built([bad], ["sm_80"])
    assert str(caught.value) == (
        'kernel gate_up for sm_80: line 5 (y[0] = nothing;): identifier "nothing" is undefined; '
        "it computes %u = linear %h, @w : f32[1,64]"
    )
    assert not kept_cubins()


def test_an_error_in_a_header_names_the_header() -> None:
    needs_nvrtc()
    bad = kernel("k", "    const Chunk c = load_once(3.0f);")
    with pytest.raises(NativeError, match=r"kernel k for sm_80: line 4 .* argument of type .float. is incompatible"):
        built([bad], ["sm_80"])
    missing = Kernel("k", '#include "cuda_fp16.h"\n', "")
    with pytest.raises(NativeError, match=r"kernel k for sm_80: line 1 .*cannot open source file"):
        built([missing], ["sm_80"])


def test_two_programs_may_compile_into_one_cache(tmp_path: Path) -> None:
    needs_nvrtc()
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.cuda_programs import DOUBLE\n"
        "from graphllm.compiler.nvrtc.build import built\n"
        "print(len(built([DOUBLE], ['sm_75', 'sm_90'], processes=1)))\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parent.parent)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) for _ in range(2)]
    assert [p.communicate(timeout=300)[0].strip() for p in both] == ["2", "2"]
    assert len([p for p in kept_cubins() if p.suffix == ".cubin"]) == 2
    assert not list((tmp_path / "cache" / "cuda").glob("new-*"))


def test_a_cache_that_cannot_be_written_is_told(compilations: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("graphllm.compiler.nvrtc.kept.os.replace", full)
    with pytest.raises(NativeError, match=r"cache .*: cannot be written; no space left on device; set GRAPHLLM_CACHE"):
        built([DOUBLE], ["sm_80"])
    assert not kept_cubins()
    assert not list(Path(os.environ["GRAPHLLM_CACHE"], "cuda").iterdir())


def test_without_nvrtc_the_pip_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    library.nvrtc_version.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setitem(sys.modules, "cuda", None)
    with pytest.raises(NativeError, match=r'^NVRTC: not installed; run `pip install "graphllm\[cuda\]"`$'):
        built([DOUBLE], ["sm_80"])
    assert library.nvrtc_missing().startswith("NVRTC: not installed")


class _Nvrtc:
    """A library that answers as it is told."""

    def __init__(self, version: tuple[int, int, int] | Exception) -> None:
        self.version = version

    def nvrtcVersion(self) -> tuple[int, int, int]:
        if isinstance(self.version, Exception):
            raise self.version
        return self.version

    def nvrtcGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, f"NVRTC_ERROR_{status}".encode()


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((0, 12, 2), "NVRTC: expected version 12.9 or later, got 12.2; run `pip install"),
        ((7, 0, 0), "NVRTC: does not tell its version; NVRTC_ERROR_7; run `pip install"),
        (RuntimeError("libnvrtc.so\nnot found"), "NVRTC: its library cannot be loaded; libnvrtc.so not found; run"),
    ],
)
def test_an_nvrtc_that_does_not_serve_is_told(version: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_bindings", lambda: _Nvrtc(version))
    monkeypatch.setattr(library, "_file", lambda: "")
    library.nvrtc_version.cache_clear()
    with pytest.raises(NativeError) as caught:
        library.nvrtc_version()
    assert str(caught.value).startswith(said)
    library.nvrtc_version.cache_clear()


def test_resources_are_read_from_the_assemblers_log() -> None:
    log = (
        "ptxas info    : 8 bytes gmem\nptxas info    : Compiling entry function 'k' for 'sm_75'\n"
        "ptxas         .     40 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads\n"
        "ptxas info    : Used 72 registers, used 1 barriers, 40 bytes cumulative stack size, 8224 bytes smem\n"
    )
    assert Cubin("k", "sm_75", b"", log).resources == Resources(72, 8224, 40, 52)


def test_spills_are_seen() -> None:
    needs_nvrtc()
    body = "    float v[200];\n    for (int i = 0; i < 200; ++i) v[i] = x[i * 64 + threadIdx.x];\n    sync_block();\n"
    body += "    for (int i = 0; i < 200; ++i) y[i * 64 + threadIdx.x] = v[199 - i] * v[i];"
    crowded = kernel("crowded", body)
    crowded = Kernel("crowded", crowded.text.replace("__launch_bounds__(64)", "__launch_bounds__(1024)"), "")
    found = built([crowded], ["sm_80"])["crowded", "sm_80"].resources
    assert found.registers <= 64
    assert found.spilled > 0


def test_architectures() -> None:
    assert check_archs("sm_90, sm_86,sm_90") == ("sm_90", "sm_86")
    for bad in ("sm_70", "90", "", "sm_90,,"):
        with pytest.raises(DeviceError, match=r"^arch: .*; expected some of sm_75, sm_80"):
            check_archs(bad)
    assert [arch_for(*v) for v in ((7, 5), (8, 7), (8, 9), (9, 0), (10, 3), (12, 1))] == [
        *("sm_75", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
    ]
    for old_or_new in ((7, 0), (6, 1), (11, 0), (13, 0)):
        with pytest.raises(DeviceError, match="not supported"):
            arch_for(*old_or_new)
    assert runs_on("sm_90a", 9, 0)
    assert not runs_on("sm_90a", 9, 1)
    assert not runs_on("sm_86", 8, 0)
    assert not runs_on("sm_80", 9, 0)


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    needs_nvrtc()
    folder = tmp_path / "cache" / "cuda"
    folder.mkdir(parents=True)
    (tmp_path / "cache").chmod(0o700)
    folder.chmod(0o777)
    with pytest.raises(GraphLLMError, match="others may write to it"):
        built([DOUBLE], ["sm_80"])


def test_the_cache_command_counts_and_clears_them(capsys: pytest.CaptureFixture[str]) -> None:
    from graphllm.cli import main

    needs_nvrtc()
    built([DOUBLE], ["sm_80", "sm_90"])
    assert main(["cache"]) == 0
    assert ": 0 plans, 2 kernels for GPUs, " in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert not kept_cubins()
    assert capsys.readouterr().out.strip().endswith(" deleted")
