"""The cache of plans: found again, never trusted, made again when anything has changed, private."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import graphllm
from graphllm.frontends.overrides import Overrides
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import random_tensors
from tests.small_plans import SMALL
from tests.small_tokenizer import write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
IDS = [1, 5, 3, 7]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "model", SMALL, random_tensors(SMALL, 1))
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


def compiled(checkpoint: Path, **options: object) -> int:
    """How many times loading a checkpoint wrote something."""
    written: list[int] = []

    def watch(what: str, done: int, total: int) -> None:
        if what == "writing" and done == total:
            written.append(done)

    graphllm.load(checkpoint, progress=watch, **options).logits(IDS)  # pyright: ignore[reportArgumentType]
    return len(written)


def state(cache: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in cache.iterdir()}


def test_compiled_once(checkpoint: Path, cache: Path) -> None:
    assert compiled(checkpoint) == 1
    before = state(cache)
    assert len(before) == 1
    assert compiled(checkpoint) == 0
    assert state(cache) == before
    assert cache.stat().st_mode & 0o777 == 0o700


def test_compile_without_a_place_fills_it(checkpoint: Path, cache: Path) -> None:
    plan = graphllm.compile(checkpoint)
    assert plan.path.parent == cache
    assert compiled(checkpoint) == 0


def test_other_options_are_other_plans(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "t.bin", 259)
    asked: list[dict[str, object]] = [
        {},
        {"context": 10},
        {"slots": 2},
        {"kv_dtype": "f16"},
        {"dtype": "f16"},
        {"overrides": Overrides(rope_theta=5e5)},
    ]
    assert [compiled(checkpoint, **options) for options in asked] == [1] * len(asked)
    assert [compiled(checkpoint, **options) for options in asked] == [0] * len(asked)
    assert len(state(cache)) == len(asked)
    with pytest.raises(graphllm.TokenizerError, match="got 259"):
        graphllm.load(checkpoint, tokenizer=tmp_path / "t.bin")
    assert len(state(cache)) == len(asked)


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty", "something else"])
def test_damaged_plans_are_made_again(checkpoint: Path, cache: Path, damage: str) -> None:
    good = graphllm.load(checkpoint).logits(IDS).tobytes()
    (plan,) = cache.iterdir()
    content = plan.read_bytes()
    middle = len(content) // 2
    plan.write_bytes(
        {
            "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "cut short": content[:middle],
            "empty": b"",
            "something else": b"#!/bin/sh\n" * 500,
        }[damage]
    )
    assert compiled(checkpoint) == 1
    assert plan.read_bytes() == content
    assert graphllm.load(checkpoint).logits(IDS).tobytes() == good


@pytest.mark.parametrize("change", ["weights", "touched", "config", "tokenizer"])
def test_a_changed_checkpoint_is_noticed(checkpoint: Path, cache: Path, change: str) -> None:
    assert compiled(checkpoint) == 1
    before = graphllm.load(checkpoint).logits(IDS)
    weights = checkpoint / "model.safetensors"
    if change == "weights":
        write_huggingface(checkpoint, SMALL, random_tensors(SMALL, 2))
    elif change == "touched":
        os.utime(weights, ns=(weights.stat().st_atime_ns, weights.stat().st_mtime_ns + 1))
    elif change == "config":
        config = checkpoint / "config.json"
        config.write_text(config.read_text().replace("10000.0", "20000.0"))
    else:
        (checkpoint / "tokenizer_config.json").write_text("{}")
    assert compiled(checkpoint) == 1
    after = graphllm.load(checkpoint).logits(IDS)
    assert (before.tobytes() == after.tobytes()) == (change in ("touched", "tokenizer"))
    assert compiled(checkpoint) == 0


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_others_may_write_to_is_refused(checkpoint: Path, cache: Path, mode: int) -> None:
    cache.mkdir(parents=True)
    cache.chmod(mode)
    with pytest.raises(graphllm.GraphLLMError, match=r"others may write to it; run chmod go-w on it or set GRAPHLLM_"):
        graphllm.load(checkpoint)
    assert state(cache) == {}


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root may give a folder away")
def test_somebody_elses_folder_is_refused(checkpoint: Path, cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    os.chown(cache, 65534, 65534)
    with pytest.raises(graphllm.GraphLLMError, match="belongs to another user; set GRAPHLLM_CACHE"):
        graphllm.load(checkpoint)


def test_a_cache_that_cannot_be(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.parent.mkdir()
    cache.write_text("a file")
    for place in (cache, cache / "below", Path("/proc/nowhere/graphllm")):
        monkeypatch.setenv("GRAPHLLM_CACHE", str(place))
        with pytest.raises(
            graphllm.GraphLLMError, match=r"cannot be made; .*; set GRAPHLLM_CACHE to another"
        ) as caught:
            graphllm.load(checkpoint)
        assert "\n" not in str(caught.value)
        assert "Errno" not in str(caught.value)
    graphllm.compile(checkpoint, cache.parent / "p.gllm")  # which needs no cache


def test_a_full_cache_says_what_to_do(checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphllm.plan import atomic_file

    usage = atomic_file.shutil.disk_usage(checkpoint)
    monkeypatch.setattr(atomic_file.shutil, "disk_usage", lambda folder: usage._replace(free=10_000))
    with pytest.raises(graphllm.PlanError, match=r"not enough disk space; .* set GRAPHLLM_CACHE to another folder, or"):
        graphllm.load(checkpoint)
    assert state(cache) == {}


def test_an_interrupted_compilation_leaves_nothing(checkpoint: Path, cache: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graphllm.load(checkpoint, progress=interrupt)
    assert state(cache) == {}
    assert compiled(checkpoint) == 1


def test_several_processes_at_once(checkpoint: Path, cache: Path) -> None:
    program = "import sys, graphllm; print(*graphllm.load(sys.argv[1]).generate([1, 5, 3], max_tokens=5).tokens)"
    command = [sys.executable, "-c", program, str(checkpoint)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
    said = {p.communicate(timeout=60) for p in running}
    assert len(said) == 1
    assert [stderr for _, stderr in said] == [b""]
    assert {p.returncode for p in running} == {0}
    assert len(state(cache)) == 1
    assert compiled(checkpoint) == 0


def test_plans_do_not_use_it(checkpoint: Path, cache: Path, tmp_path: Path) -> None:
    graphllm.load(graphllm.compile(checkpoint, tmp_path / "p.gllm").path, context=9).logits(IDS)
    assert not cache.exists()
