"""Finding a compiler, building, and the cache of libraries: with compilers that lie, fail, hang, or are not there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import graphllm
from graphllm.compiler.kept import built_libraries, native_folder
from graphllm.compiler.native import build, isa, toolchain
from graphllm.compiler.native.build import built
from graphllm.compiler.native.toolchain import compiler_command, find_compiler
from graphllm.compiler.targets import resolve
from graphllm.errors import GraphLLMError, NativeError
from graphllm.plan.plan_file import PlanFile
from tests.small_plans import small_plan

needs_compiler = pytest.mark.skipif(compiler_command() is None, reason="no C++ compiler on this machine")
TEXT = 'extern "C" int graphllm_abi() {{ return {}; }}\n'
Fake = Callable[[str], Path]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of libraries of this test's own."""
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A compiler that says it is one and then does what it is told."""

    def make(does: str) -> Path:
        path = tmp_path / "fake-c++"
        path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "fake 1.0"; exit 0; fi\n{does}\n')
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))
        return path

    return make


def nothing_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)


def test_no_compiler_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_on_the_path(tmp_path, monkeypatch)
    with pytest.raises(NativeError, match=r"^C\+\+ compiler: none found; install .*pip install ziglang"):
        find_compiler()
    monkeypatch.delenv("GRAPHLLM_TARGET")
    target, why = resolve(None)
    assert target == "numpy"
    assert why.startswith("target numpy, for want of a C++ compiler: ")
    plan, said = small_plan(tmp_path), list[str]()
    assert graphllm.load(plan, say=said.append).engine.device.name == "numpy"
    assert said == [why]
    with pytest.raises(NativeError, match="none found"):
        graphllm.load(plan, device="cpu")


@pytest.mark.parametrize("chosen", ["/nowhere/c++", "no-such-compiler -O2"])
def test_a_compiler_that_is_not_there(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", chosen)
    with pytest.raises(NativeError, match=r"^C\+\+ compiler .*: no such program; "):
        find_compiler()


def test_the_compiler_chosen_comes_first(fake: Fake) -> None:
    path = fake("exit 1")
    compiler = find_compiler()
    assert compiler.command == (str(path),)
    assert (compiler.name, compiler.version) == ("fake-c++", "fake 1.0")


def test_the_order_of_compilers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """c++, g++, clang++ on the path, and the one of the wheel where there is none of them."""
    nothing_on_the_path(tmp_path, monkeypatch)
    zig = tmp_path / "site" / "ziglang" / "zig"
    zig.parent.mkdir(parents=True)
    script = f"#!{shutil.which('sh', path=os.defpath)}\necho this is $0\n"
    wheel = SimpleNamespace(submodule_search_locations=[str(zig.parent)])
    monkeypatch.setattr(toolchain, "find_spec", lambda name: wheel if name == "ziglang" else None)
    assert compiler_command() is None  # the wheel is there, and its program is not
    for path in (zig, *(tmp_path / name for name in ("clang++", "g++", "c++"))):
        path.write_text(script)
        path.chmod(0o755)
        compiler = find_compiler()
        assert compiler.command == ((str(zig), "c++") if path == zig else (str(path),))
        assert compiler.name == ("zig c++" if path == zig else path.name)
        assert compiler.version == f"this is {path}"


def test_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mute").write_text("#!/bin/sh\nsleep 600\n")
    (tmp_path / "mute").chmod(0o755)
    monkeypatch.setenv("CXX", str(tmp_path / "mute"))
    monkeypatch.setattr(toolchain, "VERSION_LIMIT", 0.5)
    with pytest.raises(NativeError, match=r"^C\+\+ compiler mute: --version: no end after 0 s; it was stopped$"):
        find_compiler()


def test_one_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("no program")
    monkeypatch.setenv("CXX", str(tmp_path / "text"))
    with pytest.raises(NativeError, match=r"^C\+\+ compiler text: cannot be run; "):
        find_compiler()


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("echo; echo plan.cpp:3:1: error: boom >&2; exit 3", r"failed, exit status 3; plan.cpp:3:1: error: boom$"),
        ("exit 1", r"failed, exit status 1; it says nothing$"),
        ("kill -9 $$", r"failed, exit status -9; it says nothing$"),
        ("exit 0", r"says it is done and has written nothing$"),
    ],
)
def test_one_that_fails(fake: Fake, does: str, words: str, fresh_cache: Path) -> None:
    fake(does)
    with pytest.raises(NativeError, match=rf"^C\+\+ compiler fake-c\+\+: .*{words}") as caught:
        built(TEXT.format(1))
    assert "\n" not in str(caught.value)
    assert list((fresh_cache / "native").iterdir()) == []


def test_one_that_hangs_is_stopped_with_its_children(
    fake: Fake, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(f"sleep 600 & echo $! > {tmp_path}/child; wait")
    monkeypatch.setattr(build, "BUILD_LIMIT", 0.5)
    with pytest.raises(NativeError, match=r"no end after 0 s; it was stopped$"):
        built(TEXT.format(1))
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)
    assert list((fresh_cache / "native").iterdir()) == []


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_a_plan_runs_on_numpy_where_building_fails(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, said = small_plan(tmp_path), list[str]()
    fake("echo error: no luck >&2; exit 1")
    monkeypatch.delenv("GRAPHLLM_TARGET")
    model = graphllm.load(plan, say=said.append)
    assert model.engine.device.name == "numpy"
    assert "target numpy, several times as slow: C++ compiler fake-c++: " in said[-1]
    assert said[-1].endswith("error: no luck")
    with pytest.raises(NativeError, match="no luck"):
        graphllm.load(plan, device="cpu")


@needs_compiler
def test_built_once_and_found_again() -> None:
    said: list[str] = []
    first, again = (built(TEXT.format(1), said.append) for _ in range(2))
    assert first == again
    assert len(said) == 1
    assert said[0].startswith("building native code with ")
    assert first.stat().st_mode & 0o022 == 0
    other = built(TEXT.format(2), said.append)
    assert other != first
    assert built_libraries() == sorted([first, other])


@needs_compiler
def test_nobody_else_may_write_to_a_library() -> None:
    """Whatever the umask says; and one that others could have written to is built again."""
    before = os.umask(0)
    try:
        library = built(TEXT.format(1))
    finally:
        os.umask(before)
    assert library.stat().st_mode & 0o777 == 0o700
    assert native_folder().stat().st_mode & 0o777 == 0o700
    library.chmod(0o722)
    said: list[str] = []
    assert built(TEXT.format(1), said.append) == library
    assert len(said) == 1
    assert library.stat().st_mode & 0o777 == 0o700


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders on this system")
def test_what_is_no_file_is_not_read() -> None:
    """A pipe would keep its reader waiting for ever."""
    library = built(TEXT.format(1))
    library.unlink()
    os.mkfifo(library)
    assert built(TEXT.format(1)) == library
    assert library.is_file()


@needs_compiler
def test_everything_that_goes_in_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {built(TEXT.format(1)), built(TEXT.format(1), isa="portable")}
    assert len(made) == 2
    monkeypatch.setattr(build, "cpu_features", lambda: "another CPU")
    made.add(built(TEXT.format(1)))
    assert len(made) == 3
    (tmp_path / "headers").mkdir()
    (tmp_path / "headers" / "a.h").write_text("#pragma once\n")
    monkeypatch.setattr(build, "HEADERS", tmp_path / "headers")
    made.add(built(TEXT.format(1)))
    assert len(made) == 4
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
    made.add(built(TEXT.format(1)))
    assert len(made) == 5


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "flipped", "swapped", "emptied"])
def test_a_library_that_is_not_what_was_built_is_built_again(damage: str) -> None:
    good = built(TEXT.format(1))
    content = good.read_bytes()
    other = built(TEXT.format(2)).read_bytes()
    bad = {
        "cut": content[:-100],
        "flipped": content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        "swapped": other,
        "emptied": b"",
    }[damage]
    good.write_bytes(bad)
    said: list[str] = []
    again = built(TEXT.format(1), said.append)
    assert len(said) == 1
    assert again.read_bytes() == content


@needs_compiler
def test_a_folder_that_others_may_write_to_is_refused() -> None:
    native_folder().chmod(0o777)
    with pytest.raises(GraphLLMError, match=r"native: others may write to it; run chmod go-w"):
        built(TEXT.format(1))


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_is_not_ours_is_refused() -> None:
    os.chown(native_folder(), 12345, -1)
    with pytest.raises(GraphLLMError, match=r"native: belongs to another user"):
        built(TEXT.format(1))


@needs_compiler
def test_two_processes_at_once() -> None:
    code = f"from graphllm.compiler.native.build import built; print(built({TEXT.format(7)!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {Path(p.communicate(timeout=120)[0].strip()) for p in both}
    assert all(p.returncode == 0 for p in both)
    assert all(p.is_file() for p in paths)
    assert [p for p in native_folder().iterdir() if p.suffix != ".so"] == []
    assert built(TEXT.format(7)) in paths


def test_words_for_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isa.isa_flags("portable") == ("-DGRAPHLLM_PORTABLE",)
    assert isa.isa_flags("avx2") == ("-march=x86-64-v3",)
    monkeypatch.setenv("GRAPHLLM_ISA", "portable")
    assert isa.chosen_isa() == "portable"
    monkeypatch.setenv("GRAPHLLM_ISA", "sse9")
    with pytest.raises(NativeError, match=r"^GRAPHLLM_ISA='sse9'; expected native, avx2, portable, portable-native$"):
        isa.chosen_isa()


def test_a_target_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, variable in (("gpu", ""), (None, "gpu")):
        monkeypatch.setenv("GRAPHLLM_TARGET", variable)
        with pytest.raises(GraphLLMError, match=r"^target: 'gpu'; expected cpu, numpy, cuda$"):
            resolve(asked)


@needs_compiler
@pytest.mark.parametrize(("cores", "calls"), [(1, 1), (2, 3)])
def test_parts_of_a_text_are_compiled_side_by_side(
    cores: int, calls: int, tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = compiler_command()
    assert command is not None
    log = tmp_path / "calls"
    fake(f'echo "$@" >> "{log}"; exec {" ".join(command)} "$@"')
    monkeypatch.setattr(build, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS))
    monkeypatch.setattr(build, "physical_cores", lambda: cores)
    plan = small_plan(tmp_path)

    def logits(device: str) -> list[np.ndarray]:  # through steps of few rows, then of many
        engine = graphllm.load(plan, device=device).engine
        step = np.array(engine.feed([3]))
        engine.truncate(0)
        return [step, *np.concatenate(list(engine.score([1 + i % 9 for i in range(12)])))]

    got = logits("cpu")
    lines = log.read_text().splitlines()
    assert len(lines) == calls
    assert [f"-DGRAPHLLM_PART={i}" in line for i, line in enumerate(lines[:2])] == [cores > 1] * min(2, calls)
    np.testing.assert_allclose(got, logits("numpy"), rtol=1e-3, atol=1e-4)


@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm on this machine: code cannot be looked at")
def test_what_drives_products_is_compiled_once(tmp_path: Path) -> None:
    """Not for every kernel, nor for a kernel's constants: builds would take twice as long."""
    with PlanFile.open(small_plan(tmp_path, target="cpu")) as file:
        library = built(file.sections["source/cpu"])
    done = subprocess.run(["nm", "-C", "--defined-only", str(library)], check=True, capture_output=True, text=True)
    for driver in ("linear_few", "blocked", "many"):
        assert len([line for line in done.stdout.splitlines() if f" graphllm::{driver}<" in line]) == 1, driver


@needs_compiler
def test_a_part_that_fails_ends_the_others(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake('case "$*" in *PART=0*) echo "error: not this one"; exit 1;; *PART=1*) sleep 600;; esac')
    monkeypatch.setattr(build, "physical_cores", lambda: 2)
    plan, start = small_plan(tmp_path), time.monotonic()
    with pytest.raises(NativeError, match="error: not this one"):
        graphllm.load(plan, device="cpu")
    assert time.monotonic() - start < 60
