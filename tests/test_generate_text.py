"""Answers as text: pieces, characters in halves, ends, wrong settings, threads that share a model."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.errors import RunError
from graphllm.runtime.engine import Engine
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors
from tests.scripted_engine import Scripted
from tests.test_stop_strings import first_complete

PIECES = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{b:02X}>" for b in range(256))]
PIECES += [" ", "a", "b", "c", " the", "cat", " cat", "sat", "é", "中", "stop", "op", "st", "."]
CONFIG = replace(ZOO["plain"], vocab=320, context=64, eos_ids=(2,))  # more rows than the tokenizer has ids


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> graphllm.Model:
    folder = tmp_path_factory.mktemp("text")
    records = b"".join(struct.pack("<fI", -float(i), len(p.encode())) + p.encode() for i, p in enumerate(PIECES))
    write_huggingface(folder / "model", CONFIG, random_tensors(CONFIG, 4))
    (folder / "tokenizer.bin").write_bytes(struct.pack("<I", 8) + records)
    plan = graphllm.compile(folder / "model", folder / "text.gllm", tokenizer=folder / "tokenizer.bin")
    return graphllm.load(plan.path, slots=3)


def ids(*pieces: str) -> list[int]:
    """Ids of pieces by name; other characters as their bytes."""
    out: list[int] = []
    for piece in pieces:
        out += [PIECES.index(piece)] if piece in PIECES[3:] else [3 + b for b in piece.encode()]
    return out


def saying(model: graphllm.Model, prompt: list[int], said: list[int]) -> graphllm.Model:
    """The model, made to answer a prompt so."""
    module = model.plan.lowered
    model.engine = Engine(Scripted(module, {0: [*prompt, *said]}), module)
    return model


@pytest.fixture
def parrot(model: graphllm.Model) -> Iterator[graphllm.Model]:
    kept = model.engine
    yield model
    model.engine = kept


def test_a_streams_pieces_are_the_whole_text(model: graphllm.Model) -> None:
    assert (model.engine.vocab, model.allowed) == (320, len(PIECES))
    for seed in range(4):
        options: dict[str, Any] = {"max_tokens": 40, "temperature": 2.0, "seed": seed, "ignore_eos": True}
        whole = model.generate("a cat", **options)
        stream = model.stream("a cat", **options)
        assert "".join(stream) == whole.text
        assert tuple(stream.progress.tokens) == whole.tokens == tuple(model.stream("a cat", **options).tokens())
        assert (stream.progress.finish, len(whole.tokens)) == ("length", 40)
        assert max(whole.tokens) < len(PIECES)
        (alone,) = model.generate_batch(["a cat"], **options)
        assert alone == whole
        text = whole.text
        for at in range(0, len(text) - 4, 3):
            stop = text[at : at + 3]
            cut = model.generate("a cat", stop=[stop], **options)
            assert (cut.text, cut.finish) == (text[: text.index(stop)], "stop")
            assert whole.tokens[: len(cut.tokens)] == cut.tokens


def test_stop_strings_split_over_tokens(parrot: graphllm.Model) -> None:
    prompt = ids("a")
    rng = random.Random(0)
    for spelled in (["stop"], ["st", "op"], ["s", "t", "op"], ["st", "o", "p"], [" the", "stop"]):
        said = ids("b", *spelled, "c", "cat", ".")
        text = "".join(["b", *spelled])
        got = saying(parrot, prompt, said).generate(prompt, stop=["never", "stop"], max_tokens=12)
        assert (got.text, got.finish) == (text[: text.index("stop")], "stop")
        assert got.tokens == tuple(said[: 1 + len(ids(*spelled))])
    for _ in range(20):
        said = rng.choices(ids("a", "b", "c", "st", "op", ".", "é"), k=12)
        whole = saying(parrot, prompt, said).generate(prompt, max_tokens=12).text
        stops = [rng.choice(["ab", "stop", "cst", "éa", "opop", "."]) for _ in range(2)]
        got = saying(parrot, prompt, said).generate(prompt, stop=stops, max_tokens=12)
        assert got.text == "".join(parrot.stream(prompt, stop=stops, max_tokens=12)) == first_complete(whole, stops)[0]
        assert (got.finish == "stop") == first_complete(whole, stops)[1]


def test_characters_in_halves(parrot: graphllm.Model) -> None:
    """A character arrives whole; what never became one is U+FFFD, unless a stop string came before."""
    prompt = ids("a")
    said = [3 + b for b in "€x".encode()]
    assert list(saying(parrot, prompt, said).stream(prompt, max_tokens=4)) == ["€", "x"]
    assert list(parrot.stream(prompt, max_tokens=2)) == ["\ufffd"]
    assert parrot.generate(prompt, max_tokens=2, stop=["\ufffd"]).text == ""
    assert parrot.generate(prompt, max_tokens=2, stop=["\ufffd"]).finish == "stop"
    got = parrot.generate(prompt, max_tokens=4, stop=["€"])
    assert (got.text, got.finish, len(got.tokens)) == ("", "stop", 3)


def test_end_tokens(parrot: graphllm.Model) -> None:
    prompt = ids("a", "b")
    said = [*ids("cat"), 2, *ids("sat"), 2]
    got = saying(parrot, prompt, said).generate(prompt, max_tokens=4)
    assert (got.text, got.finish, got.tokens) == ("cat", "stop", tuple(said[:1]))
    got = parrot.generate(prompt, max_tokens=3, ignore_eos=True)
    assert (got.text, got.finish, got.tokens) == ("catsat", "length", tuple(said[:3]))
    assert parrot.stop_ids == {2}
    stream = parrot.stream(prompt, max_tokens=50, ignore_eos=True)
    assert next(iter(stream)) == "cat"
    assert stream.progress.finish == "cancelled"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_tokens": "5"}, "max_tokens: '5'; expected 0 or more"),
        ({"max_tokens": 2.5}, "max_tokens: 2.5; expected 0 or more"),
        ({"max_tokens": float("nan")}, "max_tokens: nan; expected 0 or more"),
        ({"max_tokens": True}, "max_tokens: True; expected 0 or more"),
        ({"stop": None}, "stop: None; expected a list of texts"),
        ({"stop": [1.5]}, "stop: .1.5.; expected a list of texts"),
        ({"stop": b"x"}, "stop: b'x'; expected a list of texts"),
        ({"logit_bias": None}, "sampler: logit_bias = None; expected numbers by token id"),
        ({"logit_bias": [(1, 2.0)]}, "sampler: logit_bias = .*; expected numbers by token id"),
        ({"sampler": {"temperature": 1}}, "sampler: .*; expected a SamplerConfig, or its fields as keywords"),
    ],
)
def test_settings_of_another_type_are_refused(model: graphllm.Model, settings: dict[str, Any], words: str) -> None:
    """They may come from JSON. Told at once: by the request, not by its first token."""
    for ask in (model.generate, model.stream):
        with pytest.raises(RunError, match=f"^{words}"):
            ask("the", **settings)


def test_bytes_are_no_token_ids(model: graphllm.Model) -> None:
    with pytest.raises(RunError, match=r"^prompt: expected text or a list of token ids, got \"b'the'\""):
        model.generate(b"the")


def test_threads_that_share_a_model_never_get_a_wrong_answer(model: graphllm.Model) -> None:
    """An answer, or an error that says what happened."""
    prompt = "the rain in the trees"
    expected = model.generate(prompt, max_tokens=20, ignore_eos=True).text
    logits = model.logits(model.encode(prompt))
    wrong: list[object] = []
    refused: list[str] = []

    def use(ask: Callable[[], bool]) -> None:
        for _ in range(30):
            try:
                if not ask():
                    wrong.append(ask)
            except RunError as error:
                refused.append(str(error))

    threads = [
        threading.Thread(target=use, args=[ask])
        for ask in (
            lambda: model.generate(prompt, max_tokens=20, ignore_eos=True).text == expected,
            lambda: "".join(model.stream(prompt, max_tokens=20, ignore_eos=True)) == expected,
            lambda: model.generate_batch([prompt], max_tokens=20, ignore_eos=True)[0].text == expected,
            lambda: np.array_equal(model.logits(model.encode(prompt)), logits),
        )
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(refused) < 4 * 30
    for line in refused:
        assert line.startswith(("model: another thread is using it", "answer: something else was begun"))
