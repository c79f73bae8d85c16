"""The model that ships with the package: found by name, a story pinned, as good as its card says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphllm
from examples.tiny_tales.card import perplexity
from graphllm.api.source import source_of
from graphllm.cli import main
from graphllm.frontends.demo import CHECKPOINT

GREEDY = (
    ", there was a kind boy named Oscar. He lived in a small house by the sea. One morning Oscar woke up and smiled. "
    "Today was his birthday! He ran to Lena's door. Lena was a playful girl. \"I"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> graphllm.Model:
    path = tmp_path_factory.mktemp("demo") / "demo.gllm"
    graphllm.compile("demo", path, target="numpy").file.close()
    return graphllm.load(path, device="numpy")


def test_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert source_of("demo") == CHECKPOINT
    assert source_of("other") == Path("other")
    (tmp_path / "demo").mkdir()
    assert source_of("demo") == Path("demo")  # what lies there comes first


def test_it_is_small() -> None:
    assert CHECKPOINT.stat().st_size < 6_000_000


def test_greedy_text_is_pinned(model: graphllm.Model) -> None:
    assert model.generate("Once upon a time", max_tokens=60).text == GREEDY


def test_no_choice_of_the_pinned_text_is_close(model: graphllm.Model) -> None:
    """Otherwise another BLAS could turn it."""
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("Once upon a time" + GREEDY)
    logits = np.sort(model.logits(ids), axis=-1)
    assert (logits[4:-1, -1] - logits[4:-1, -2]).min() > 1e-3


def test_perplexity_is_pinned(model: graphllm.Model) -> None:
    assert perplexity(model, 20) == pytest.approx(1.211084, rel=1e-4)


def test_compile_gives_the_same_plan_twice(tmp_path: Path) -> None:
    plans = [tmp_path / "a.gllm", tmp_path / "b.gllm"]
    for plan in plans:
        graphllm.compile("demo", plan, target="numpy").file.close()
    assert plans[0].read_bytes() == plans[1].read_bytes()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    assert main(["demo", "-t", "0", "-n", "60"]) == 0
    out, err = capsys.readouterr()
    assert out == f"Once upon a time{GREEDY}\n"
    assert "kernels" in err
    assert "tok/s" in err
