"""What rounding to int8 cost is measured as it is defined, kept in the plan, shown; nothing is left where it fails."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from examples.tiny_tales.corpus import documents
from graphllm.cli import main
from graphllm.errors import GraphLLMError, PlanError
from graphllm.frontends.demo import CHECKPOINT
from graphllm.frontends.open import open_checkpoint
from graphllm.plan.plan_file import PlanFile
from tests.small_plans import forged


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(documents("quality", 4)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, text: Path) -> graphllm.Plan:
    return graphllm.compile(
        "demo", tmp_path_factory.mktemp("plan") / "q.gllm", quantize="int8", calibrate=text, target="numpy"
    )


def test_errors_of_tensors(plan: graphllm.Plan) -> None:
    """Against the checkpoint, with a definition written once more; q, k and v are stacked in one tensor."""
    checkpoint = open_checkpoint(CHECKPOINT).tensors
    quality = plan.quality
    assert quality is not None
    errors = {e.name: e for e in quality[0]}
    assert len(errors) == 6 * 4 + 1
    for name, parts in (("l3.w_down", ["l3.w_down"]), ("l0.wq_wk_wv", ["l0.wq", "l0.wk", "l0.wv"])):
        exact = np.concatenate([checkpoint[p].read() for p in parts]).astype(np.float64)
        q, scale = (plan.file.weight(f"{name}.{part}").astype(np.float64) for part in ("int8", "scale"))
        found = errors[f"{name}.int8"]
        off = exact - q * np.repeat(scale, 64, axis=1)
        assert found.relative == pytest.approx(math.sqrt((off**2).sum() / (exact**2).sum()), rel=1e-5)
        assert found.largest == pytest.approx(np.abs(off).max(), rel=1e-5)
        assert (found.before, found.after) == (4 * exact.size, q.size + 2 * scale.size)
        assert 0.001 < found.relative < 0.02


def test_cost_on_a_text(plan: graphllm.Plan, text: Path, tmp_path: Path) -> None:
    graphllm.compile("demo", tmp_path / "exact.gllm", target="numpy").file.close()
    exact = graphllm.load(tmp_path / "exact.gllm", device="numpy")
    rounded = graphllm.load(plan.path, device="numpy")
    ids = exact.encode(text.read_text(encoding="utf-8"))
    kl: list[float] = []
    same, surprise, predicted = 0, np.zeros(2), 0
    for first in range(0, len(ids), 256):
        part = ids[first : first + 256]
        p, q = (np.exp(m.logits(part).astype(np.float64)) for m in (exact, rounded))
        p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
        kl += (p * np.log(p / q)).sum(axis=1).tolist()
        same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        for i in range(len(part) - 1):
            surprise += [-math.log(p[i, part[i + 1]]), -math.log(q[i, part[i + 1]])]
            predicted += 1
    quality = plan.quality
    assert quality is not None
    cost = quality[1]
    assert cost is not None
    assert (cost.tokens, cost.window) == (len(ids), 256)
    assert cost.kl == pytest.approx(np.mean(kl), rel=1e-3)
    assert cost.kl_error == pytest.approx(np.std(kl, ddof=1) / math.sqrt(len(kl)), rel=1e-3)
    assert cost.top1 == pytest.approx(same / len(ids), rel=1e-5)
    assert cost.perplexity_before == pytest.approx(math.exp(surprise[0] / predicted), rel=1e-5)
    assert cost.perplexity == pytest.approx(math.exp(surprise[1] / predicted), rel=1e-5)
    assert cost.top1 >= 0.97
    assert cost.perplexity == pytest.approx(cost.perplexity_before, rel=0.01)


def test_the_same_call_gives_the_same_bytes(plan: graphllm.Plan, text: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.gllm"
    graphllm.compile("demo", again, quantize="int8", calibrate=text, target="numpy").file.close()
    assert again.read_bytes() == plan.path.read_bytes()
    assert list(tmp_path.iterdir()) == [again]


def test_the_commands_tell(plan: graphllm.Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "demo", "--quantize", "int8", "--measure", "-o", str(tmp_path / "m.gllm")]) == 0
    told = capsys.readouterr().out
    assert "Rounded to int8\n" in told
    assert "25 tensors, 5.24 MB before, 1.35 MB after" in told
    assert "KL" not in told
    assert main(["show", str(plan.path)]) == 0
    told = capsys.readouterr().out
    assert "same likeliest token" in told
    assert "perplexity" in told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read; No such file"),
        (b"", "no text in it"),
        (b" \n", "no text in it"),
        (b"ok \xff", "not UTF-8 at byte 3"),
    ],
)
def test_texts_that_are_none(tmp_path: Path, content: bytes | None, words: str) -> None:
    text, out = tmp_path / "t.txt", tmp_path / "out" / "q.gllm"
    out.parent.mkdir()
    out.write_bytes(b"an older one")
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(GraphLLMError, match=words) as error:
        graphllm.compile("demo", out, quantize="int8", calibrate=text, target="numpy")
    assert "\n" not in str(error.value)
    assert [(p.name, p.read_bytes()) for p in out.parent.iterdir()] == [("q.gllm", b"an older one")]


def test_nothing_to_measure(tmp_path: Path) -> None:
    for choices in ({"measure": True}, {"calibrate": tmp_path / "t.txt"}):
        with pytest.raises(GraphLLMError, match="expected quantize with them"):
            graphllm.compile("demo", tmp_path / "q.gllm", target="numpy", **choices)  # type: ignore[arg-type]


def test_no_tokenizer(tmp_path: Path, text: Path) -> None:
    (tmp_path / "model.bin").write_bytes(CHECKPOINT.read_bytes())
    with pytest.raises(GraphLLMError, match="has no tokenizer"):
        graphllm.compile(tmp_path / "model.bin", tmp_path / "q.gllm", quantize="int8", calibrate=text, target="numpy")
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


def test_interrupted_it_leaves_nothing(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphllm.compiler.quality.text_cost", interrupted)
    with pytest.raises(KeyboardInterrupt):
        graphllm.compile("demo", tmp_path / "q.gllm", quantize="int8", calibrate=text, target="numpy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"tensors": 3},
        {"tensors": [{}]},
        {"tensors": [3]},
        {"tensors": [{"name": 1, "source": "", "relative": 0.1, "largest": 0.1, "before": 1, "after": 1}]},
        {"tensors": [], "text": {"tokens": "many"}},
    ],
)
def test_a_damaged_record(plan: graphllm.Plan, tmp_path: Path, record: object) -> None:
    """Running the plan needs none of it; showing it refuses in one line."""
    report = {**plan.file.documents["report"], "quality": record}
    path = forged(plan.path, tmp_path / "p.gllm", documents={"report": report})
    with PlanFile.open(path, verify="none") as file, pytest.raises(PlanError, match="its report of quality") as error:
        _ = graphllm.Plan(file).quality
    assert "\n" not in str(error.value)
    assert graphllm.load(path, device="numpy").generate("Once", max_tokens=2).tokens
