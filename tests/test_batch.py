"""Many prompts at once: each answer is what it would be alone; in files, every line is answered once, come what may."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.api.batch_file import BatchFile
from graphllm.api.model import Model
from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.runtime.chat.format import ChatFormat
from graphllm.runtime.sampling import log_probs
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors
from tests.small_tokenizer import write_tokenizer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("batch")
    write_huggingface(base / "hf", ZOO["odd_sizes"], random_tensors(ZOO["odd_sizes"], np.random.default_rng(6)))
    write_tokenizer(base / "hf" / "tokenizer.bin")
    graphllm.compile(base / "hf", base / "m.gllm", context=64, slots=3, kv_dtype="f32", target="numpy")
    return base


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return graphllm.load(folder / "m.gllm", device="numpy")


def prompts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice("etaoin shrdlu é") for _ in range(rng.choice([1, 2, 5, 9, 20]))) for _ in range(count)]


# Completions


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.7, "top_k": 9, "seed": 1}])
@pytest.mark.parametrize("echo", [False, True])
def test_each_row_equals_its_single_run(model: Model, settings: dict[str, Any], echo: bool) -> None:
    """Ragged prompts, more than there are slots, that end at different times."""
    texts = prompts(len(settings), 8)
    plain = model.complete(texts, max_tokens=15, **settings)
    stop = [plain[0].text[3:5], plain[1].text[7]]
    together = model.complete(texts, max_tokens=15, logprobs=3, echo=echo, stop=stop, **settings)
    assert {answer.finish for answer in together} >= {"stop", "length"}
    for i, (text, answer) in enumerate(zip(texts, together, strict=True)):
        own = settings | ({"seed": settings["seed"] + i} if "seed" in settings else {})
        (alone,) = model.complete([text], max_tokens=15, logprobs=3, echo=echo, stop=stop, **own)
        assert (answer.text, answer.tokens, answer.finish) == (alone.text, alone.tokens, alone.finish)
        single = model.generate(text, max_tokens=15, logprobs=3, stop=stop, **own)
        ids = model.encode(text)
        assert answer.tokens == (tuple(ids) if echo else ()) + single.tokens
        assert answer.finish == single.finish
        assert answer.text == (model.tokenizer.decode(ids) if echo and model.tokenizer else "") + single.text
        for ours, theirs in zip(answer.logprobs[len(ids) if echo else 0 :], single.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=2e-4)
            assert ours.token == theirs.token


def test_log_probabilities_are_those_of_the_logits(model: Model) -> None:
    (answer,) = model.complete([[1, 263, 264, 270, 261]], max_tokens=4, logprobs=5, echo=True, temperature=2.0, seed=3)
    scores = log_probs(model.logits(answer.tokens))
    assert [one.token for one in answer.logprobs] == list(answer.tokens)
    assert (answer.logprobs[0].logprob, answer.logprobs[0].top) == (0.0, ())
    for position, one in enumerate(answer.logprobs[1:]):
        assert one.logprob == pytest.approx(scores[position, one.token], abs=2e-4)
        best = np.argsort(-scores[position], kind="stable")[:5]
        assert [token for token, _ in one.top] == list(best)
        assert [logprob for _, logprob in one.top] == pytest.approx(list(scores[position, best]), abs=2e-4)


def test_to_ask_for_probabilities_changes_no_answer(model: Model) -> None:
    texts = prompts(3, 5)
    plain = model.complete(texts, max_tokens=12, temperature=1.0, seed=9)
    for asked in ({"logprobs": 0}, {"logprobs": 2, "echo": True}):
        for one, other in zip(
            plain, model.complete(texts, max_tokens=12, temperature=1.0, seed=9, **asked), strict=True
        ):
            assert other.tokens[-len(one.tokens) :] == one.tokens
    scored = model.complete(texts, max_tokens=0, logprobs=0, echo=True)
    assert [answer.tokens for answer in scored] == [tuple(model.encode(text)) for text in texts]
    assert all(answer.finish == "length" and len(answer.logprobs) == len(answer.tokens) for answer in scored)
    assert model.complete([]) == []


def test_what_cannot_be_completed_is_refused_before_anything_is_answered(model: Model) -> None:
    model.generate("x" * 30, max_tokens=20, ignore_eos=True)
    assert len(model.complete(["y" * 40], max_tokens=1)) == 1  # what a slot held before does not count
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: model.complete(["a", "b" * 200]), "context: 20"),
        (lambda: model.complete([[1], []]), "prompt: no tokens"),
        (lambda: model.complete([[1], [5000]]), "token 5000"),
        (lambda: model.complete(["a"], logprobs=-1), "logprobs: -1; expected 0 to 100"),
        (lambda: model.complete(["a"], logprobs=101), "logprobs: 101"),
        (lambda: model.generate("a", logprobs=True), "logprobs: True"),
        (lambda: model.complete(["a"], stop="abc"), "stop: 'abc'; expected a list"),
        (lambda: model.complete(["a"], stop=[""]), "stop: an empty string"),
        (lambda: model.complete(["a"], max_tokens=-1), "max_tokens: -1"),
        (lambda: model.generate_batch(["a"] * 4), "4 prompts; this plan holds 3"),
    ]
    for call, words in calls:
        with pytest.raises(RunError, match=words):
            call()


# Files


def batch_file(model: Model, source: Path, out: Path, said: list[str] | None = None, **settings: Any) -> BatchFile:
    assert model.tokenizer is not None
    format = ChatFormat("{% for m in messages %}{{ m.content }}{% endfor %}", model.tokenizer)
    return BatchFile(
        model, source, out, {"max_tokens": 6} | settings, lambda: format, ([] if said is None else said).append
    )


def written(path: Path) -> list[dict[str, Any]]:
    return sorted(
        (json.loads(line) for line in path.read_text("utf-8").splitlines()), key=lambda record: record["line"]
    )


LINES = [
    '"one"',
    "",
    '{"prompt": "two", "max_tokens": 3, "id": "x", "logprobs": 1, "echo": true}',
    '{"ids": [1, 262, 263], "temperature": 1.5, "id": [1, {"a": null}]}',
    '{"messages": [{"role": "user", "content": [{"type": "text", "text": "hé"}]}], "stop": ["e", 5], "seed": 3}',
    '{"prompt": "five", "logit_bias": {"262": 100}, "ignore_eos": true}',
    '{"prompt": "six", "temperature": 1, "variant": "meta"}',
]
WRONG = [
    ("not json", "not valid JSON"),
    ("5", "expected a text, or an object"),
    ("[]", "expected a text, or an object"),
    ("{}", "expected a text, or an object with one of prompt, ids, messages"),
    ('{"prompt": "a", "ids": [1]}', "with one of"),
    ('{"prompt": 5}', "prompt: expected a text"),
    ('{"ids": "a"}', "ids: expected token ids"),
    ('{"ids": [1.5]}', "expected text or a list of token ids"),
    ('{"ids": [99999]}', "token 99999"),
    ('{"ids": []}', "no tokens"),
    ('{"prompt": "a", "top_q": 1}', "'top_q': no such setting"),
    ('{"prompt": "a", "temperature": "hot"}', "temperature = 'hot'"),
    ('{"prompt": "a", "echo": 1}', "echo: 1; expected true or false"),
    ('{"prompt": "a", "logit_bias": {"x": 1}}', "logit_bias: token id"),
    ('{"prompt": "a", "max_tokens": 1e9}', "max_tokens"),
    ('{"prompt": "a", "stop": "x"}', "stop: 'x'"),
    ('{"prompt": "' + "a" * 300 + '"}', "context: 30"),
    ('{"messages": []}', "messages"),
    ('{"messages": [{"role": "user"}]}', "content"),
    ('{"prompt": "\\ud800"}', "not valid JSON"),
    ('{"prompt": "a", "prompt": "b"}', "appears twice"),
    ("[" * 5000, "nested deeper"),
]


def test_a_file_is_answered_line_by_line(model: Model, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(LINES), "utf-8")  # no newline at the end
    done = batch_file(model, source, out, seed=20).run()
    assert (done.answered, done.found, done.refused) == (6, 0, 0)
    records = written(out)
    assert [record["line"] for record in records] == [1, 3, 4, 5, 6, 7]
    assert [record.get("id") for record in records] == [None, "x", [1, {"a": None}], None, None, None]
    one = model.generate("one", max_tokens=6)
    assert (records[0]["text"], records[0]["tokens"]) == (one.text, list(one.tokens))
    two = model.complete(["two"], max_tokens=3, echo=True)[0]
    assert (records[1]["text"], len(records[1]["logprobs"])) == (two.text, len(two.tokens))
    assert records[2]["tokens"] == list(model.generate([1, 262, 263], max_tokens=6, temperature=1.5, seed=24).tokens)
    assert records[3]["seed"] == 3
    assert records[4]["tokens"] == [262] * 6
    assert records[5]["seed"] == 27


def test_a_wrong_line_costs_no_other(model: Model, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes("\n".join(["\ufeffx", *(line for line, _ in WRONG), '"good"', ""]).encode() + b"\xff\xfe\n")
    done = batch_file(model, source, out).run()
    assert (done.answered, done.refused) == (1, len(WRONG) + 2)
    records = written(out)
    for record, (line, words) in zip(records[1:], WRONG, strict=False):
        assert words in record["error"], line
        assert "\n" not in record["error"]
    assert records[len(WRONG) + 1]["text"]
    assert batch_file(model, source, out).run().refused == len(WRONG) + 2  # still to be seen the next time


def test_an_interruption_at_any_byte_loses_and_repeats_nothing(model: Model, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(LINES) + "\n", "utf-8")
    batch_file(model, source, out, seed=1).run()
    whole, records = out.read_bytes(), written(out)
    cuts = sorted({0, 1, 8, 9, len(whole) - 1, len(whole), *random.Random(1).sample(range(len(whole)), 12)})
    for cut in cuts:
        out.write_bytes(whole[:cut])
        said: list[str] = []
        done = batch_file(model, source, out, said, seed=1).run()
        assert written(out) == records
        assert done.found == whole[:cut].count(b"\n")
        assert done.answered == 6 - done.found
        assert bool(said) == (cut > 0 and whole[cut - 1 : cut] != b"\n")


def test_another_input_or_setting_is_not_taken_for_the_same(model: Model, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"a"\n"b"\n')
    batch_file(model, source, out).run()
    held = out.read_bytes()
    with pytest.raises(RunError, match=r"answer to line 1 is of another prompt, model or setting"):
        batch_file(model, source, out, max_tokens=7).run()
    source.write_text('"a"\n"c"\n')
    with pytest.raises(RunError, match=r"answer to line 2 is of another prompt"):
        batch_file(model, source, out).run()
    source.write_text('"a"\n')
    with pytest.raises(RunError, match=r"answer to line 2 is of another prompt"):
        batch_file(model, source, out).run()
    assert out.read_bytes() == held
    source.write_text('"a"\n"b"\n"c"\n')  # more lines at the end are welcome
    assert batch_file(model, source, out).run().answered == 1


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\n", b"{}\n", b'{"line": 1}\n', b'{"line": "1", "of": "x"}\n', b"\xff\n", b"{\n"]
)
def test_a_file_that_is_not_ours_is_left_alone(model: Model, tmp_path: Path, content: bytes) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "notes"
    source.write_text('"a"\n')
    out.write_bytes(content)
    with pytest.raises(RunError, match=r"notes:1: not an answer of graphllm batch"):
        batch_file(model, source, out).run()
    assert out.read_bytes() == content


def test_files_that_cannot_be(model: Model, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('"a"\n')
    wrong: list[tuple[Path, Path, str]] = [
        (tmp_path / "no", tmp_path / "o1", "no such file"),
        (tmp_path, tmp_path / "o2", "not a regular file"),
        (source, source, "it is the input"),
        (source, tmp_path, "not a regular file"),
        (source, tmp_path / "no" / "o3", "cannot be written"),
        (source, Path("/dev/full"), "not a regular file"),
    ]
    for place, out, words in wrong:
        with pytest.raises((RunError, PlanError), match=words):
            batch_file(model, place, out).run()
    assert source.read_text() == '"a"\n'
    assert issubclass(PlanError, GraphLLMError)


def test_killed_again_and_again_every_line_is_answered_once(folder: Path, tmp_path: Path) -> None:
    """kill -9 while it writes, until it is done."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(text) + "\n" for text in prompts(9, 150)))
    command = [sys.executable, "-m", "graphllm", "batch", str(folder / "m.gllm"), str(source), "-o", str(out)]
    command += ["--device", "numpy", "--slots", "3", "-n", "30", "-t", "1", "--seed", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    sizes = [0]
    for _ in range(2):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if out.exists() and out.stat().st_size > sizes[-1] + 1500:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sizes.append(out.stat().st_size)
    assert sizes[1] < sizes[2]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert [record["line"] for record in written(out)] == list(range(1, 151))
    assert b"were there" in done.stderr
