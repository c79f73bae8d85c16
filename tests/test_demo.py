"""The model that ships with the package: found by name, a story pinned, as good as its card says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import graphllm
from examples.tiny_tales.card import perplexity
from graphllm.api.source import source_of
from graphllm.cli import main
from graphllm.compiler.native import build
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.frontends.demo import CHECKPOINT
from tests.cpu_models import QUICK

GREEDY = (
    ", there was a clever boy named Oscar. He lived in a small house by the sea. One morning, Oscar heard a small "
    'sound in the meadow. "Peep, peep!" It was a little bird. It had hurt its wing'
)
DIGESTS = Path(__file__).parent / "golden" / "demo.json"


@pytest.fixture(scope="module", params=["numpy", "cpu"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[graphllm.Model]:
    if request.param == "cpu" and compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    path = tmp_path_factory.mktemp("demo") / "demo.gllm"
    graphllm.compile("demo", path, target=request.param, kv_dtype="f32").file.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "FLAGS", QUICK)
        yield graphllm.load(path, device=request.param, threads=2)


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
    assert (logits[4:-1, -1] - logits[4:-1, -2]).min() > 5e-4


def test_perplexity_is_pinned(model: graphllm.Model) -> None:
    assert perplexity(model, 20) == pytest.approx(1.212230, rel=1e-5)


def test_compile_gives_the_same_plan_twice(tmp_path: Path) -> None:
    plans = [tmp_path / "a.gllm", tmp_path / "b.gllm"]
    for plan in plans:
        graphllm.compile("demo", plan, target="numpy").file.close()
    assert plans[0].read_bytes() == plans[1].read_bytes()


def test_plan_is_pinned(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Weights, the portable IR and both lowerings, byte by byte. What a plan says of versions is not."""
    found: dict[str, str] = {}
    for target in ("numpy", "cpu"):
        with graphllm.compile("demo", tmp_path / f"{target}.gllm", target=target).file as plan:
            digest = hashlib.sha256()
            for name in sorted(plan.weights):
                digest.update(f"{name} {plan.weights[name]}".encode() + plan.weight(name).tobytes())
            found |= {"weights": digest.hexdigest()}
            found |= {n: hashlib.sha256(plan.sections[n].encode()).hexdigest() for n in ("ir", f"lowered/{target}")}
    if request.config.getoption("--update-golden"):
        DIGESTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    assert found == json.loads(DIGESTS.read_text(encoding="utf-8"))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    assert main(["demo", "-t", "0", "-n", "60"]) == 0
    out, err = capsys.readouterr()
    assert out == f"Once upon a time{GREEDY}\n"
    assert "kernels" in err
    assert "tok/s" in err
