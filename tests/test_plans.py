"""Plans as files: the same bytes whoever compiles, good wherever they lie, and refused in one line when damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import graphllm
from graphllm.plan.plan_file import PlanFile
from tests.small_plans import SMALL, small_plan

ROOT = Path(__file__).resolve().parents[1]
IDS = [1, 5, 3, 7]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_plan(tmp_path_factory.mktemp("small"))


def refusal(path: Path) -> str:
    """The one line with which loading a file is refused."""
    with pytest.raises(graphllm.GraphLLMError) as caught:
        graphllm.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_the_same_bytes_twice(tmp_path: Path, dtype: str | None) -> None:
    """By other processes, with other hash seeds, from and to folders of other names, at another time."""
    small_plan(tmp_path)
    made: list[bytes] = []
    for seed in ("1", "2"):
        folder = tmp_path / f"elsewhere-{seed * 5}" / "model"
        shutil.copytree(tmp_path / "model", folder, copy_function=shutil.copyfile)
        out = folder.parent / f"plan{seed}.gllm"
        program = "import sys, graphllm; graphllm.compile(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None)"
        command = [sys.executable, "-c", program, str(folder), str(out), dtype or ""]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed})
        made.append(out.read_bytes())
    assert made[0] == made[1]
    assert small_plan(tmp_path, "third.gllm", dtype=dtype).read_bytes() == made[0]
    assert b"elsewhere" not in made[0]


def test_another_model_or_option_gives_other_bytes(tmp_path: Path) -> None:
    one = small_plan(tmp_path).read_bytes()
    assert small_plan(tmp_path, "b.gllm", context=15).read_bytes() != one
    assert small_plan(tmp_path, "c.gllm", kv_dtype="f16").read_bytes() != one


def test_runs_wherever_it_lies_and_without_its_checkpoint(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    before = graphllm.load(plan).logits(IDS)
    shutil.rmtree(tmp_path / "model")
    moved = tmp_path / "ein Ordner, ünïcode" / "renamed"
    moved.parent.mkdir()
    plan.rename(moved)
    model = graphllm.load(moved)
    assert model.logits(IDS).tobytes() == before.tobytes()
    assert len(graphllm.load(moved, context=30).generate(IDS, max_tokens=20, ignore_eos=True).tokens) == 20


def test_running_needs_neither_frontends_nor_passes(plan: Path) -> None:
    program = (
        "import sys, graphllm; graphllm.load(sys.argv[1]).generate([1, 2, 3], max_tokens=3);"
        "print([m for m in sys.modules if m.startswith(('graphllm.frontends', 'graphllm.passes'))])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(plan)], check=True, cwd=ROOT, capture_output=True)
    assert done.stdout.decode().strip() == "[]"


def test_is_a_safetensors_file(plan: Path) -> None:
    from safetensors import safe_open

    with safe_open(plan, "np") as file, PlanFile.open(plan) as ours:
        assert {f"weight/{name}" for name in ours.weights} < set(file.keys())
        for name in ours.weights:
            assert (file.get_tensor(f"weight/{name}") == ours.weight(name)).all()


def test_says_what_it_was_made_from(plan: Path) -> None:
    with PlanFile.open(plan) as file:
        opened = graphllm.Plan(file)
        assert opened.config["vocab"] == SMALL.vocab
        assert [f["name"] for f in opened.provenance["files"]] == ["config.json", "model.safetensors"]
        assert opened.provenance["graphllm"] == graphllm.__version__
        assert {"fuse", "plan-memory"} < {p["name"] for p in opened.report["passes"]}
        assert "def " in opened.source
        stages = [opened.stage(name) for name in ("traced", "optimised", "lowered")]
        assert [f.ops[0].body is not None for m in stages for f in [m.functions["decode"]]] == [False, False, True]
        with pytest.raises(graphllm.RunError, match="stage: 'raw'; expected traced, optimised, lowered"):
            opened.stage("raw")  # pyright: ignore[reportArgumentType]
        assert str(plan.parent) not in " ".join(map(str, file.documents.values()))


def rewritten(path: Path, content: bytes) -> Iterator[int]:
    """Yields positions; between them the file at ``path`` has one other bit there and is restored after."""
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR)
    try:
        for at in range(len(content)):
            os.pwrite(fd, bytes([content[at] ^ 1 << at % 8]), at)
            yield at
            os.pwrite(fd, content[at : at + 1], at)
    finally:
        os.close(fd)


def outcome(path: Path) -> str:
    """The message with which a plan is refused, '' for one that loads."""
    try:
        graphllm.load(path)
    except graphllm.GraphLLMError as error:
        return str(error)
    return ""


def test_flipped_at_every_byte(tmp_path: Path) -> None:
    path, content = tmp_path / "flipped.gllm", small_plan(tmp_path, context=2).read_bytes()
    assert 30_000 < len(content) < 60_000
    for at in rewritten(path, content):
        message = outcome(path)
        assert message, at
        assert "\n" not in message
    assert outcome(path) == ""  # whole again


def test_truncated_at_every_length(tmp_path: Path) -> None:
    path, content = tmp_path / "short.gllm", small_plan(tmp_path, context=2).read_bytes()
    path.write_bytes(content)
    for length in range(len(content) - 1, -1, -1):
        os.truncate(path, length)
        message = outcome(path)
        assert message, length
        assert "\n" not in message


@pytest.mark.parametrize("name", ["x.gllm", "x"])
@pytest.mark.parametrize("content", [b"", b"\0", b"GGUF" + bytes(100), b"\xff" * 4096, b"{}", bytes(10_000)])
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refusal(tmp_path / name)


def test_other_things_are_refused(tmp_path: Path) -> None:
    refusal(tmp_path / "nothing.gllm")
    (tmp_path / "folder.gllm").mkdir()
    refusal(tmp_path / "folder.gllm")
    os.mkfifo(tmp_path / "fifo.gllm")
    refusal(tmp_path / "fifo.gllm")
    (tmp_path / "dangling.gllm").symlink_to(tmp_path / "nothing")
    refusal(tmp_path / "dangling.gllm")
    (tmp_path / "loop.gllm").symlink_to(tmp_path / "loop.gllm")
    refusal(tmp_path / "loop.gllm")


def test_options_that_are_not_for_plans(tmp_path: Path, plan: Path) -> None:
    from graphllm.frontends.overrides import Overrides

    with pytest.raises(graphllm.RunError, match="a plan; dtype, quantize and overrides are for checkpoints"):
        graphllm.load(plan, dtype="f16")
    with pytest.raises(graphllm.RunError, match="a plan; dtype, quantize and overrides are for checkpoints"):
        graphllm.load(plan, overrides=Overrides(rope_theta=5e5))
    for wrong in ({"expand": "maybe"}, {"verify": "some"}, {"context": -1}, {"context": 1 << 25}, {"slots": 2000}):
        with pytest.raises(graphllm.GraphLLMError, match=next(iter(wrong)) + r".*expected"):
            graphllm.load(plan, **wrong)  # pyright: ignore[reportArgumentType]
    said: list[str] = []
    half = graphllm.load(plan, kv_dtype="f16", say=said.append)
    assert said == ["lowered again for context 16, slots 1, f16 cache"]
    asked = graphllm.load(small_plan(tmp_path, kv_dtype="f16"))
    assert half.logits(IDS).tobytes() == asked.logits(IDS).tobytes()
