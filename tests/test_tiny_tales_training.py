"""Training of the demo model: stopped, it goes on bit for bit; nothing is lost, nothing stays half written."""

from __future__ import annotations

import importlib.util
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import graphllm

if TYPE_CHECKING:
    from examples.tiny_tales.train import Recipe, Training

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import runpy
runpy.run_module("examples.tiny_tales.train", run_name="__main__")
"""
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def test_without_torch(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tiny_tales: PyTorch is not installed; pip install graphllm[train]\n"


@pytest.fixture
def recipe() -> Recipe:
    from examples.tiny_tales.model import Shape
    from examples.tiny_tales.train import Recipe

    shape = Shape(dim=32, hidden=48, layers=2, heads=4, kv_heads=2, context=64)
    return Recipe(steps=40, batch=4, length=48, stories=30, held_out=8, warmup=4, peak=1e-2, shape=shape)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from examples.tiny_tales.vocabulary import train_vocabulary

    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    train_vocabulary(path, "tiny tales")
    return path


def prepared(out: Path, recipe: Recipe, vocabulary: Path) -> tuple[Training, Any, Any]:
    from examples.tiny_tales.train import Training, prepare

    out.mkdir(exist_ok=True)
    if not (out / "tokenizer.model").exists():
        (out / "tokenizer.model").write_bytes(vocabulary.read_bytes())
    rows, held_out = prepare(out, recipe)
    return Training(out, recipe, "cpu"), rows, held_out


def same(a: Any, b: Any) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@needs_torch
class TestTraining:
    def test_it_learns(self, tmp_path: Path, recipe: Recipe, vocabulary: Path) -> None:
        training, rows, held_out = prepared(tmp_path / "a", recipe, vocabulary)
        assert training.run(rows, held_out, 20)
        (_, _, early), (_, _, late) = training.log
        assert late < early < math.log(recipe.shape.vocab)
        assert late < math.log(recipe.shape.vocab) - 1

    def test_stopped_and_resumed_is_uninterrupted(self, tmp_path: Path, recipe: Recipe, vocabulary: Path) -> None:
        whole, rows, held_out = prepared(tmp_path / "whole", recipe, vocabulary)
        assert whole.run(rows, held_out, 10)

        part, rows, held_out = prepared(tmp_path / "part", recipe, vocabulary)
        step = part.one_step

        def interrupted(of: Any) -> float:
            if part.step == 23:
                os.kill(os.getpid(), signal.SIGINT)
            return step(of)

        part.one_step = interrupted  # type: ignore[method-assign]
        assert not part.run(rows, held_out, 10)
        assert part.step == 24
        resumed, rows, held_out = prepared(tmp_path / "part", recipe, vocabulary)
        assert resumed.step == 24
        assert resumed.run(rows, held_out, 10)
        assert same(whole.model.state_dict(), resumed.model.state_dict())
        assert same(whole.optimiser.state_dict(), resumed.optimiser.state_dict())
        assert [(s, held) for s, _, held in whole.log] == [(s, held) for s, _, held in resumed.log]

    def test_killed_it_goes_on(self, tmp_path: Path, vocabulary: Path) -> None:
        """The command itself, ended by force: what it leaves is a checkpoint, and the same command goes on."""
        out = tmp_path / "out"
        out.mkdir()
        (out / "tokenizer.model").write_bytes(vocabulary.read_bytes())
        command = [sys.executable, "-m", "examples.tiny_tales.train", "--out", str(out), "--stories", "60"]
        command += ["--steps", "3", "--every", "1", "--threads", "1"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 120
        while not (out / "checkpoint.pt").exists() and time.monotonic() < limit and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.wait()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "goes on at step" in done.stdout
        assert (out / "model.bin").exists()
        assert (out / "tokenizer.bin").exists()

    @pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
    def test_damaged_checkpoint(self, tmp_path: Path, recipe: Recipe, vocabulary: Path, damage: bytes | None) -> None:
        training, *_ = prepared(tmp_path / "a", recipe, vocabulary)
        training.save()
        whole = training.checkpoint.read_bytes()
        damaged = damage if damage is not None else whole[: len(whole) // 2]
        training.checkpoint.write_bytes(damaged)
        with pytest.raises(
            SystemExit, match=r"checkpoint\.pt: not a checkpoint, .*; remove it to begin again"
        ) as error:
            prepared(tmp_path / "a", recipe, vocabulary)
        assert "\n" not in str(error.value)
        assert training.checkpoint.read_bytes() == damaged

    def test_another_recipe(self, tmp_path: Path, recipe: Recipe, vocabulary: Path) -> None:
        training, *_ = prepared(tmp_path / "a", recipe, vocabulary)
        training.save()
        with pytest.raises(SystemExit, match="of another recipe; choose another --out"):
            prepared(tmp_path / "a", replace(recipe, peak=1e-3), vocabulary)

    def test_another_corpus(self, tmp_path: Path, recipe: Recipe, vocabulary: Path) -> None:
        prepared(tmp_path / "a", recipe, vocabulary)
        with pytest.raises(SystemExit, match="holds another corpus"):
            prepared(tmp_path / "a", replace(recipe, stories=31), vocabulary)

    def test_failed_save_keeps_the_old_one(
        self, tmp_path: Path, recipe: Recipe, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        training, *_ = prepared(tmp_path / "a", recipe, vocabulary)
        training.save()
        before = training.checkpoint.read_bytes()

        def fail(state: object, file: Any) -> None:
            file.write(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(KeyboardInterrupt):
            training.save()
        assert training.checkpoint.read_bytes() == before
        assert not list(training.out.glob("*.partial"))

    def test_full_disk(self, tmp_path: Path, vocabulary: Path) -> None:
        """No file may grow beyond 1 MB: the checkpoint of the real shape needs more."""
        out = tmp_path / "out"
        out.mkdir()
        (out / "tokenizer.model").write_bytes(vocabulary.read_bytes())

        def limited() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

        command = [sys.executable, "-m", "examples.tiny_tales.train", "--out", str(out), "--stories", "60"]
        command += ["--steps", "1", "--every", "1", "--threads", "1"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limited)
        assert done.returncode == 1
        assert done.stderr.startswith("tiny_tales: ")
        assert done.stderr.endswith("; what was complete before is kept\n")
        assert done.stderr.count("\n") == 1
        assert not list(out.glob("*.partial"))
        assert not (out / "checkpoint.pt").exists()
        assert (out / "train.u16").stat().st_size > 0

    @pytest.mark.parametrize("option", ["--stories", "--steps", "--every"])
    def test_none_of_something(self, tmp_path: Path, option: str) -> None:
        command = [sys.executable, "-m", "examples.tiny_tales.train", "--out", str(tmp_path / "x"), option, "0"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "tiny_tales: --stories, --steps and --every; expected at least 1\n"
        assert not (tmp_path / "x").exists()

    def test_the_export_is_the_model(self, tmp_path: Path, recipe: Recipe, vocabulary: Path) -> None:
        import torch

        from examples.tiny_tales.export import write_tokenizer_bin, write_v0
        from examples.tiny_tales.vocabulary import load_vocabulary

        training, rows, held_out = prepared(tmp_path / "a", recipe, vocabulary)
        training.run(rows, held_out, 40)
        pieces = load_vocabulary(vocabulary)
        write_v0(tmp_path / "model.bin", training.model.state_dict(), recipe.shape)
        write_tokenizer_bin(tmp_path / "tokenizer.bin", pieces)
        plan = tmp_path / "model.gllm"
        graphllm.compile(
            tmp_path / "model.bin", plan, tokenizer=tmp_path / "tokenizer.bin", target="numpy", kv_dtype="f32"
        ).file.close()
        model = graphllm.load(plan, device="numpy")
        ids = np.random.default_rng(0).integers(3, recipe.shape.vocab, 40)
        with torch.no_grad():
            expected = training.model(torch.from_numpy(ids[None]))[0].numpy()
        np.testing.assert_allclose(model.logits(ids.tolist()), expected, atol=1e-4, rtol=1e-4)
        for text in ("Once upon a time, Pip found 3 kites.", "Ask: a tale\nTale:", "é ß 日本 \t x", ""):
            assert model.encode(text)[1:] == pieces.encode(text)
