"""The second start of a plan: no C++ is printed or built, and nothing is believed that does not belong to the plan."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import graphllm
from graphllm.codegen.cpu import generate as generator
from graphllm.compiler.kept import built_libraries, other_files
from graphllm.compiler.native import build, printed
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.errors import PlanError
from graphllm.ir.core import Module
from tests.checkpoint_writers import write_huggingface
from tests.cpu_models import PLAIN, quick_builds
from tests.model_zoo import random_tensors
from tests.small_plans import SMALL, edited, small_plan

__all__ = ["quick_builds"]
pytestmark = pytest.mark.skipif(compiler_command() is None, reason="no C++ compiler on this machine")
PACKAGE = Path(graphllm.__file__).parent


@pytest.fixture(autouse=True)
def fresh_cache(quick_builds: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, but for the headers that quick builds have read before."""
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Start:
    """Loads a plan and says what had to be made for it: texts printed, libraries built."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prints = 0
        generate = generator.generate

        def counted(module: Module, *, timed: bool = False) -> str:
            self.prints += 1
            return generate(module, timed=timed)

        monkeypatch.setattr(generator, "generate", counted)

    def __call__(self, plan: Path) -> tuple[int, int]:
        said: list[str] = []
        self.prints = 0
        model = graphllm.load(plan, device="cpu", threads=1, say=said.append)
        assert len(model.generate([1, 2, 3], max_tokens=3, ignore_eos=True).tokens) == 3
        return self.prints, sum(line.startswith("building native code") for line in said)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    return Start(monkeypatch)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return small_plan(tmp_path, target="cpu")


def test_a_warm_start_prints_and_builds_nothing(plan: Path, start: Start) -> None:
    assert start(plan) == (1, 1)
    assert start(plan) == (0, 0)


def test_a_warm_start_imports_no_generator(plan: Path) -> None:
    code = (
        "import sys, graphllm, graphllm.compiler.native.build as build\n"
        "build.FLAGS = tuple('-O0' if flag == '-O3' else flag for flag in build.FLAGS)\n"
        f"graphllm.load({str(plan)!r}, device='cpu')\n"
        "print('graphllm.codegen.cpu.generate' in sys.modules)"
    )
    said = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert [s.stdout.strip() for s in said] == ["True", "False"]


def test_equal_plans_share_what_was_printed(tmp_path: Path, plan: Path, start: Start) -> None:
    """Weights are no part of the text."""
    write_huggingface(tmp_path / "other", SMALL, random_tensors(SMALL, 2))
    other = graphllm.compile(tmp_path / "other", tmp_path / "other.gllm", target="cpu").path
    assert start(plan) == (1, 1)
    assert start(other) == (0, 0)


def test_another_generator_prints_again(plan: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where it prints the same, the library is the same."""
    start(plan)
    monkeypatch.setattr(printed, "generator", lambda: "another")
    assert start(plan) == (1, 0)
    assert start(plan) == (0, 0)


def test_other_headers_flags_or_cpus_build_again(
    plan: Path, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "FLAGS", PLAIN)  # no headers that were read before: they would be the unchanged ones
    start(plan)
    headers = tmp_path / "headers"
    shutil.copytree(build.HEADERS, headers)
    (headers / "norm.h").write_text((headers / "norm.h").read_text() + "// changed\n")
    with monkeypatch.context() as changed:
        changed.setattr(build, "HEADERS", headers)
        assert start(plan) == (0, 1)
    with monkeypatch.context() as changed:
        changed.setattr(build, "FLAGS", (*build.FLAGS, "-DOTHER"))
        assert start(plan) == (0, 1)
    with monkeypatch.context() as changed:
        changed.setattr(build, "cpu_features", lambda: "another CPU")
        assert start(plan) == (0, 1)
    assert start(plan) == (0, 0)


def test_a_lost_or_damaged_library_is_built_from_what_was_printed(plan: Path, start: Start) -> None:
    start(plan)
    (library,) = built_libraries()
    content = library.read_bytes()
    library.unlink()  # a file of its own: this process has the library mapped
    library.write_bytes(content[:-64])
    assert start(plan) == (0, 1)
    built_libraries()[0].unlink()
    assert start(plan) == (0, 1)
    assert start(plan) == (0, 0)


def cut(text: Path, other: Path) -> None:
    text.write_bytes(text.read_bytes()[:-100])


def swapped(text: Path, other: Path) -> None:
    text.write_bytes(other.read_bytes())


def writable(text: Path, other: Path) -> None:
    text.chmod(0o722)


def linked(text: Path, other: Path) -> None:
    text.unlink()
    text.symlink_to(other)


@pytest.mark.parametrize("damage", [cut, swapped, writable, linked])
def test_a_text_that_is_not_what_was_printed_is_printed_again(
    damage: Callable[[Path, Path], None], plan: Path, start: Start, tmp_path: Path
) -> None:
    larger = replace(SMALL, ffn_dim=16)
    write_huggingface(tmp_path / "larger", larger, random_tensors(larger, 1))
    start(graphllm.compile(tmp_path / "larger", tmp_path / "larger.gllm", target="cpu").path)
    (other,) = other_files()
    start(plan)
    (text,) = (path for path in other_files() if path != other)
    expected = text.read_bytes()
    damage(text, other)
    assert start(plan) == (1, 0)
    assert text.read_bytes() == expected
    assert text.stat().st_mode & 0o077 == 0


def test_other_lowered_ir_has_a_text_of_its_own(plan: Path, start: Start, tmp_path: Path) -> None:
    """Also where it says the same in other words: what was printed is found by the text that was verified."""
    start(plan)
    other = edited(plan, tmp_path / "other.gllm", lambda text: text + "// the end\n", "lowered/cpu")
    assert start(other) == (1, 0)


def test_ir_is_verified_whatever_was_printed(plan: Path, start: Start, tmp_path: Path) -> None:
    """A text in the cache stands for no check of the plan."""
    start(plan)
    other = edited(plan, tmp_path / "other.gllm", lambda text: text.replace("arena+64", "arena+0"), "lowered/cpu")
    with pytest.raises(PlanError, match="overlap in the arena"):
        start(other)


def test_all_that_decides_the_text_is_in_its_key() -> None:
    """Whatever the language and the generator import of ours is hashed, but for words of errors."""
    code = (
        "import sys, graphllm.codegen.cpu.generate, graphllm.ir.parser, graphllm.ir.verifier\n"
        "for m in sys.modules.values():\n"
        "    if m.__name__.startswith('graphllm'): print(m.__file__)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    hashed = {path for pattern in printed.SOURCES for path in PACKAGE.glob(pattern)}
    others = {str(path.relative_to(PACKAGE)) for path in map(Path, said.split()) if path not in hashed}
    assert others == {"__init__.py", "_version.py", "errors.py"}
    assert len(hashed) > 30


@pytest.mark.parametrize("changed", ["codegen/cpu/linear.py", "codegen/text.py", "ir/parser.py", "ir/ops/dense.py"])
def test_a_changed_source_changes_the_key(changed: str, tmp_path: Path) -> None:
    for pattern in printed.SOURCES:
        for path in PACKAGE.glob(pattern):
            place = tmp_path / path.relative_to(PACKAGE)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    assert printed.hash_of(tmp_path) == printed.generator()
    source = tmp_path / changed
    source.write_bytes(source.read_bytes().replace(b"\n", b"\n\n", 1))
    assert printed.hash_of(tmp_path) != printed.generator()
