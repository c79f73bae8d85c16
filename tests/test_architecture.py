"""The shape of the package itself: floors, light import, small files, names that mean something."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphllm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "graphllm"
CODE = sorted(p for p in PACKAGE.rglob("*") if p.suffix in {".py", ".cuh", ".cu", ".h", ".cpp"})
HEAVY = {"numpy", "ml_dtypes", "tokenizers", "sentencepiece", "safetensors", "networkx", "rich", "cuda"}
BANNED = {"utils", "util", "helpers", "helper", "common", "misc", "v2"}

# Absolute paths of somebody's machine; the brackets keep this line from matching itself.
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:[h]ome|[r]oot|[U]sers|[w]ork)/\w")


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Import-linter on a folder, as its command line runs it."""
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", script, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_floors_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("errors.py", "import graphllm.plan"),
        ("runtime/__init__.py", "import graphllm.codegen"),
        ("codegen/__init__.py", "from graphllm.compiler import x"),
        ("new_part.py", ""),
    ],
    ids=["up", "sideways", "up two", "a part without a floor"],
)
def test_a_broken_floor_is_noticed(tmp_path: Path, module: str, line: str) -> None:
    for part in ("cli", "measure", "compiler", "view", "codegen", "runtime", "frontends", "passes", "ir", "plan"):
        (tmp_path / "graphllm" / part).mkdir(parents=True)
        (tmp_path / "graphllm" / part / "__init__.py").touch()
    for name in ("__init__.py", "_version.py", "api.py", "errors.py"):
        (tmp_path / "graphllm" / name).touch()
    assert lint_imports(tmp_path).returncode == 0, "the skeleton itself must be clean"
    (tmp_path / "graphllm" / module).write_text(line + "\n")
    assert lint_imports(tmp_path).returncode != 0


def test_import_loads_nothing_heavy() -> None:
    before, after = json.loads(
        python(
            "import sys, json; before = set(sys.modules); import graphllm; graphllm.__version__; dir(graphllm)\n"
            "print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))"
        )
    )
    assert not HEAVY & set(before), "the interpreter itself loads heavy libraries: this test proves nothing here"
    assert not HEAVY & {name.partition(".")[0] for name in after}
    assert {name for name in after if name.startswith("graphllm")} == {"graphllm", "graphllm._version"}


def test_error_classes_are_exported_without_the_api() -> None:
    from graphllm import errors

    public = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert public.keys() <= set(graphllm.__all__)
    for name, value in public.items():
        assert getattr(graphllm, name) is value


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = graphllm.no_such_name


def test_the_version_is_a_release_number() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", graphllm.__version__)


@pytest.mark.parametrize("path", CODE, ids=[str(p.relative_to(ROOT)) for p in CODE])
def test_a_source_file_is_short_and_well_named(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, "could it hold two ideas?"
    names = {part for piece in path.relative_to(PACKAGE).with_suffix("").parts for part in piece.split("_")}
    assert not names & BANNED, "name the file for what is in it"


def test_no_path_of_a_machine() -> None:
    folders = [p for name in ("graphllm", "tests", "examples", "benchmarks", ".ci") for p in (ROOT / name).rglob("*")]
    files = [p for p in [*ROOT.glob("*.md"), ROOT / "pyproject.toml", *folders] if p.is_file()]
    texts = {p: p.read_bytes().decode("utf-8", errors="ignore") for p in files if p.suffix not in {".pyc", ".gllm"}}
    assert MACHINE_PATH.search("see /" + "home/someone/model.bin"), "the pattern must be able to find something"
    assert [str(p.relative_to(ROOT)) for p, text in texts.items() if MACHINE_PATH.search(text)] == []
