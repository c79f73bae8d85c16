"""``eval``: perplexity against golden figures and by hand, divergence by its definition, choices by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm
from graphllm.api import Model
from graphllm.cli import main
from graphllm.errors import GraphLLMError
from graphllm.measure.evaluate.multiple_choice import multiple_choice, read_questions
from graphllm.measure.evaluate.perplexity import perplexity
from graphllm.measure.evaluate.statistics import mean_of, share_interval
from graphllm.measure.evaluate.token_file import read_tokens
from graphllm.measure.evaluate.windows import cut
from graphllm.passes.quantize_int8 import Quantization
from tests.shared_data import shared
from tests.small_plans import SMALL, small_plan

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_plan(tmp_path_factory.mktemp("eval"))


@pytest.fixture
def model(plan: Path) -> Model:
    return graphllm.load(plan, device="numpy")


def log_p(model: Model, ids: list[int]) -> NDArray[np.float64]:
    x = model.logits(ids).astype(np.float64)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


class TestPerplexity:
    @pytest.mark.parametrize(
        ("name", "checkpoint"), [("stories260K", "real/stories260K/stories260K.bin"), ("story", "real/story-hf")]
    )
    def test_golden(self, name: str, checkpoint: str) -> None:
        golden = shared(f"golden/{name}")
        ids = json.loads((golden / "ppl_ids.json").read_text())
        nll = np.load(golden / "ppl_nll.npy")
        model = graphllm.load(shared(checkpoint), device="numpy", kv_dtype="f32", context=256)
        got = perplexity(model.engine, ids, window=255, stride=255, bos=1)
        assert np.abs(got.each - nll).max() < 1e-4
        assert got.perplexity == pytest.approx(math.exp(float(nll.astype(np.float64).mean())), rel=1e-4)

    @pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (16, 1), (5, 5), (2, 2)])
    @pytest.mark.parametrize("bos", [None, 7])
    def test_every_token_by_hand(self, model: Model, window: int, stride: int, bos: int | None) -> None:
        """Each token's probability, by a forward pass of its own over what its window shows."""
        expected: list[float] = []
        for t in range(len(IDS)):
            end = t // stride * stride + stride
            seen = IDS[max(0, end - window) : t]
            if bos is not None:
                seen = [bos, *seen]
            if seen:
                expected.append(-float(log_p(model, seen)[-1, IDS[t]]))
        got = perplexity(model.engine, IDS, window=window, stride=stride, bos=bos)
        np.testing.assert_allclose(got.each, expected, atol=1e-5)
        assert got.nll.value == pytest.approx(sum(expected) / len(expected), abs=1e-6)
        assert got.nll.low < got.nll.value < got.nll.high

    def test_windows_never_exceed_their_size_and_score_every_token_once(self) -> None:
        for bos in (None, 0):
            for window, stride in ((7, 2), (7, 7), (3, 1), (50, 20)):
                scored: list[int] = []
                for w in cut(range(100, 137), window, stride, bos):
                    assert len(w.feed) <= window
                    assert len(w.targets) <= stride
                    scored += w.targets
                lost = 0 if bos is not None else 1 + (36 // stride if window == stride else 0)
                assert len(scored) == len(set(scored)) == 37 - lost

    def test_divergence_by_its_definition(self, plan: Path, model: Model) -> None:
        other = graphllm.load(
            small_plan(plan.parent, "int8.gllm", quantize=Quantization("int8", group=4), context=12), device="numpy"
        )
        got = perplexity(model.engine, IDS, window=11, stride=11, bos=2, reference=other.engine)
        p, q = (
            np.concatenate([log_p(m, [2, *IDS[:10]]), log_p(m, [2, *IDS[11:20]])])[: len(IDS)] for m in (other, model)
        )
        kl = (np.exp(p) * (p - q)).sum(axis=-1)
        assert got.against is not None
        assert got.against.kl.value == pytest.approx(kl.mean(), abs=1e-5)
        assert got.against.kl_largest == pytest.approx(kl.max(), abs=1e-5)
        assert got.against.same_top == int((p.argmax(-1) == q.argmax(-1)).sum())
        itself = perplexity(model.engine, IDS, window=11, stride=11, bos=2, reference=graphllm.load(plan).engine)
        assert itself.against is not None
        assert itself.against.kl.value == 0
        assert itself.against.same_top == itself.tokens


class TestChoices:
    def questions(self, folder: Path, *records: object) -> Path:
        path = folder / "q.jsonl"
        path.write_text("\n".join(json.dumps(r) for r in records) + "\n\n")
        return path

    def test_by_hand(self, tmp_path: Path, model: Model) -> None:
        rng = np.random.default_rng(0)
        records: list[dict[str, object]] = []
        for _ in range(12):
            prompt = rng.integers(0, SMALL.vocab, rng.integers(1, 6)).tolist()
            choices = [rng.integers(0, SMALL.vocab, rng.integers(1, 5)).tolist() for _ in range(3)]
            records.append({"prompt": prompt, "choices": choices, "answer": int(rng.integers(0, 3))})
        found = multiple_choice(model, read_questions(self.questions(tmp_path, *records)))
        for scored, record in zip(found.questions, records, strict=True):
            prompt, choices = record["prompt"], record["choices"]
            assert isinstance(prompt, list)
            assert isinstance(choices, list)
            expected = []
            for choice in choices:
                p = log_p(model, prompt + choice)[len(prompt) - 1 : -1]
                expected.append(sum(p[i, t] for i, t in enumerate(choice)))
            np.testing.assert_allclose(scored.log_probabilities, expected, atol=1e-5)
            assert scored.picked == int(np.argmax(expected))
            lengths = [e / len(c) for e, c in zip(expected, choices, strict=True)]
            assert scored.picked_by_length == int(np.argmax(lengths))
        share = found.as_json()["accuracy"]["share"]
        assert share == sum(s.picked == s.answer for s in found.questions) / 12

    def test_texts_of_a_real_model(self, tmp_path: Path) -> None:
        path = self.questions(
            tmp_path,
            {"prompt": "Once upon a time, there was a little", "choices": [" girl", " xylophone quark"], "answer": 0},
            {"prompt": "She was very", "choices": [" zzz", " happy"], "answer": 1},
        )
        model = graphllm.load("demo", device="numpy")
        found = multiple_choice(model, read_questions(path))
        assert (found.right, found.right_by_length) == (2, 2)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("{", ":2: not JSON"),
            ('{"prompt": "a", "choices": ["b"], "answer": 0}', ":2: expected"),
            ('{"prompt": "", "choices": ["b", "c"], "answer": 0}', ":2: expected"),
            ('{"prompt": "a", "choices": ["b", 3], "answer": 0}', ":2: expected"),
            ('{"prompt": "a", "choices": ["b", "c"], "answer": 2}', ":2: answer; expected an index from 0 to 1"),
            ('{"prompt": "a", "choices": ["b", "c"], "answer": true}', ":2: answer"),
            ("[" * 5000, ":2: not JSON"),
        ],
    )
    def test_bad_lines(self, tmp_path: Path, line: str, words: str) -> None:
        path = tmp_path / "q.jsonl"
        path.write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 1}\n' + line + "\n")
        with pytest.raises(GraphLLMError) as caught:
            read_questions(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("prompt", "choices", "words"),
        [
            ([1] * 10, [[2] * 3, [2] * 30], r"q\.jsonl:1: context: 40 tokens do not fit in 16"),
            ([1, 99], [[2], [3]], "not in the vocabulary"),
            ("a", ["b", "c"], "no tokenizer"),
            ([1], ["b", "c"], "one kind"),
        ],
    )
    def test_what_the_model_cannot_take(
        self, tmp_path: Path, model: Model, prompt: object, choices: object, words: str
    ) -> None:
        path = self.questions(tmp_path, {"prompt": prompt, "choices": choices, "answer": 0})
        with pytest.raises(GraphLLMError, match=words):
            multiple_choice(model, read_questions(path))


class TestTokenFiles:
    def test_all_kinds(self, tmp_path: Path) -> None:
        np.array(IDS, "<u2").tofile(tmp_path / "a.bin")
        np.save(tmp_path / "a.npy", np.array(IDS, np.int64))
        (tmp_path / "a.json").write_text(json.dumps(IDS))
        (tmp_path / "a.txt").write_text(", ".join(map(str, IDS)))
        for kind in ("bin", "npy", "json", "txt"):
            assert read_tokens(tmp_path / f"a.{kind}") == IDS
            assert read_tokens(tmp_path / f"a.{kind}", 5) == IDS[:5]

    @pytest.mark.parametrize(
        ("name", "content", "words"),
        [
            ("a.bin", b"abc", "3 bytes; expected uint16"),
            ("a.bin", b"", "no tokens"),
            ("a.npy", b"\x93NUMPY\x01", "not token ids"),
            ("a.json", b'{"a": 1}', "no tokens"),
            ("a.json", b"[1, true]", "whole numbers"),
            ("a.json", b"[" * 9000, "not token ids"),
            ("a.txt", b"Once upon", "not token ids"),
            ("a.txt", b"\xff\xfe", "not token ids"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, name: str, content: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GraphLLMError, match=words):
            read_tokens(tmp_path / name)

    def test_no_pickle_is_opened(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
        with pytest.raises(GraphLLMError, match="not token ids"):
            read_tokens(tmp_path / "a.npy")


class TestCommand:
    def test_text_and_json(self, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        np.array(IDS, "<u2").tofile(tmp_path / "shard.bin")
        arguments = ["eval", str(plan), "--device", "numpy", "--tokens", str(tmp_path / "shard.bin")]
        assert main([*arguments, "--against", str(plan)]) == 0
        page = capsys.readouterr().out
        assert "perplexity" in page
        assert "same likeliest token  100.00 %" in page
        assert main([*arguments, "--json", "--window", "8", "--stride", "2"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["tokens"], said["window"], said["stride"], said["bos"]) == (20, 8, 2, None)
        assert said["perplexity"] == pytest.approx(math.exp(said["nll"]["value"]))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--tokens", "ids.txt", "--window", "17"], "window: 17; expected 2 to 16"),
            (["--tokens", "ids.txt", "--stride", "17"], "stride: 17; expected 1 to 16"),
            (["--tokens", "one.txt"], "1 tokens and none to score"),
            (["--tokens", "far.txt"], "token 11 at 1: not in the vocabulary"),
            (["--tokens", "none.txt"], "none.txt: cannot be read"),
            (["--text", "empty.txt"], "empty.txt: no text in it"),
            (["--text", "ids.txt"], "no tokenizer"),
            (["--text", "latin.txt"], "not UTF-8 at byte 0"),
            (["--tokens", "ids.txt", "--against", "other.gllm"], "a vocabulary of 12; expected 11"),
            (["--choices", "ids.txt", "--against", "other.gllm"], "--against: compares predictions on a text"),
            ([], "one of the arguments --text --tokens --choices is required"),
        ],
    )
    def test_mistakes(
        self,
        plan: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        words: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        files = {"ids": b"1 2 3", "one": b"1", "far": b"1 11", "empty": b" \n", "latin": b"\xe9t\xe9"}
        for name, content in files.items():
            Path(f"{name}.txt").write_bytes(content)
        if "other.gllm" in arguments:
            other_vocabulary(tmp_path)
        try:
            code = main(["eval", str(plan), "--device", "numpy", *arguments])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert (code, said.out) == (2, "")
        assert words in said.err
        assert said.err.count("\n") == 1

    def test_two_tokenizers_are_noticed(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = tmp_path / "t.txt"
        text.write_text("Once upon a time there was a cat.")
        checkpoint = shared("real/stories260K/stories260K.bin")
        plan = graphllm.compile(checkpoint, tmp_path / "a.gllm", tokenizer=shared("real/stories260K/tok512.bin")).path
        assert main(["eval", "demo", "--device", "numpy", "--text", str(text), "--against", str(plan)]) == 2
        assert "the two models cut it differently, from token" in capsys.readouterr().err


def other_vocabulary(folder: Path) -> None:
    from dataclasses import replace

    from tests.checkpoint_writers import write_huggingface
    from tests.model_zoo import random_tensors

    config = replace(SMALL, vocab=12, bos_id=None)
    write_huggingface(folder / "model12", config, random_tensors(config, 1))
    graphllm.compile(folder / "model12", folder / "other.gllm")


def test_intervals() -> None:
    """A mean's against many draws; a share's at its ends stays inside."""
    rng = np.random.default_rng(5)
    inside = sum((m := mean_of(rng.exponential(2.0, 400))).low < 2.0 < m.high for _ in range(400))
    assert 0.91 < inside / 400 < 0.98
    assert share_interval(0, 9)[0] == 0
    assert share_interval(9, 9)[1] == 1
    low, high = share_interval(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-3)
    assert mean_of(np.array([3.0])).error == 0
