"""From prompt to answer: what ends one, what is never shown, what a seed and a batch may not change."""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphllm
from graphllm.errors import RunError
from graphllm.ir.core import Module
from graphllm.runtime.batch import Request, complete, numbered
from graphllm.runtime.device import Logits, Row
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Progress, generate_tokens
from graphllm.runtime.null_device import NullDevice
from graphllm.runtime.sampling import Sampler, SamplerConfig
from graphllm.runtime.stops import StopStrings
from tests.checkpoint_writers import write_huggingface
from tests.lowered_models import engine, lowered
from tests.model_zoo import ZOO, random_tensors
from tests.reference_forward import reference_greedy

GREEDY = SamplerConfig()
NEVER = frozenset[int]()


class Scripted(NullDevice):
    """Checks every step, and likes best what a script says comes at the next position of a slot."""

    def __init__(self, module: Module, scripts: Mapping[int, Sequence[int]]) -> None:
        super().__init__(module)
        self.scripts = scripts

    def _say(self, logits: Logits, rows: Sequence[tuple[int, int]]) -> Logits:
        for row, (position, slot) in zip(logits.reshape(-1, logits.shape[-1]), rows, strict=False):
            script = self.scripts.get(slot, ())
            row[script[position + 1] if position + 1 < len(script) else 0] = 9.0
        return logits

    def row(self, token: int, position: int, slot: int) -> Logits:
        return self._say(super().row(token, position, slot), [(position, slot)])

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        return self._say(super().rows(function, rows), [(r.position, r.slot) for r in rows])

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Logits:
        return self._say(super().block(function, tokens, start, slot), [(start + len(tokens) - 1, slot)])


def scripted(*scripts: Sequence[int]) -> Engine:
    module = lowered("plain").module
    return Engine(Scripted(module, dict(enumerate(scripts))), module)


def answer(
    e: Engine,
    prompt: Sequence[int],
    max_tokens: int | None = 10,
    stop_ids: frozenset[int] = NEVER,
    config: SamplerConfig = GREEDY,
    slot: int = 0,
) -> Progress:
    progress = Progress()
    sampler = Sampler(config, e.vocab, e.vocab)
    said = list(
        generate_tokens(e, prompt, sampler, max_tokens=max_tokens, stop_ids=stop_ids, progress=progress, slot=slot)
    )
    assert said == progress.tokens
    return progress


def batch(e: Engine, prompts: Sequence[Sequence[int]], max_tokens: int | None = 10, **more: Any) -> list[Progress]:
    options: dict[str, Any] = {"config": GREEDY, "stop_ids": NEVER} | more
    config, allowed = options.pop("config"), options.pop("allowed", e.vocab)
    asked = [
        Request(prompt, Sampler(numbered(config, i), e.vocab, allowed), max_tokens, **options)
        for i, prompt in enumerate(prompts)
    ]
    return [progress for _, progress in sorted(complete(e, asked), key=lambda pair: pair[0])]


# One answer


@pytest.mark.parametrize("name", ["plain", "odd_interleaved", "everything"])
def test_greedy_answers_are_the_references(name: str) -> None:
    model = lowered(name)
    prompt = [1, 5, 9, 2, 7]
    want = reference_greedy(model.config, model.tensors, prompt, 15)
    got = answer(engine(model, poison=True), prompt, 15, slot=2)
    assert got.tokens == want
    assert (got.finish, got.prompt_tokens) == ("length", 5)


@pytest.mark.parametrize("where", range(6))
def test_a_stop_id_ends_an_answer_and_is_not_part_of_it(where: int) -> None:
    script = [1, 2, 3, 11, 12, 13, 14, 15, 16]
    got = answer(scripted(script), script[:3], 6, frozenset({script[3 + where], 66}))
    assert (got.tokens, got.finish) == (script[3 : 3 + where], "stop")
    got = batch(scripted(script), [script[:3]], 6, stop_ids=frozenset({script[3 + where], 66}))[0]
    assert (got.tokens, got.finish) == (script[3 : 3 + where], "stop")


@pytest.mark.parametrize(
    ("max_tokens", "tokens", "finish"),
    [(0, 0, "length"), (1, 1, "length"), (7, 7, "length"), (9, 9, "length"), (10, 9, "context"), (None, 9, "context")],
)
def test_how_many_tokens(max_tokens: int | None, tokens: int, finish: str) -> None:
    """A context of 48 holds 40 of a prompt and 8 answers; the 9th needs no position of its own."""
    script = list(range(1, 64))
    for got in (
        answer(scripted(script), script[:40], max_tokens),
        *batch(scripted(script, script), [script[:40], script[:40]], max_tokens),
    ):
        assert (got.tokens, got.finish, got.prompt_tokens) == (script[40 : 40 + tokens], finish, 40)
    full = answer(scripted(script), script[:48], max_tokens)
    assert full.tokens == script[48 : 48 + min(tokens, 1)]


def test_what_cannot_be_answered() -> None:
    e = scripted([1, 2, 3])
    for call in (lambda: answer(e, [1], -1), lambda: batch(e, [[1]], -1)):
        with pytest.raises(RunError, match=r"^max_tokens: -1; expected 0 or more"):
            call()
    for call in (lambda: answer(e, [1] * 49), lambda: batch(e, [[1], [1] * 49])):
        with pytest.raises(RunError, match=r"^context: 49 tokens do not fit in 48 positions"):
            call()
    for call in (lambda: answer(e, []), lambda: batch(e, [[1], []])):
        with pytest.raises(RunError, match=r"^prompt: no tokens"):
            call()


def test_an_answer_left_early_is_cancelled() -> None:
    progress = Progress()
    e = scripted(list(range(1, 40)))
    sampler = Sampler(GREEDY, e.vocab, e.vocab)
    tokens = generate_tokens(e, [1, 2], sampler, max_tokens=20, stop_ids=NEVER, progress=progress)
    assert [next(iter(tokens)) for _ in range(3)] == [3, 4, 5]
    assert isinstance(tokens, Iterator)
    del tokens
    assert (progress.finish, progress.tokens) == ("cancelled", [3, 4, 5])
    e.truncate(0)
    assert answer(e, [1, 2, 3], 2).tokens == [4, 5]


def test_speeds_count_what_was_done() -> None:
    progress = Progress(prompt_tokens=10, tokens=[1, 2, 3], prefill_seconds=0.5, decode_seconds=0.25)
    assert (progress.prefill_speed, progress.decode_speed) == (20.0, 8.0)
    assert (Progress().prefill_speed, Progress().decode_speed) == (0.0, 0.0)


# Seeds and batches


def test_a_seed_is_an_answer() -> None:
    model = lowered("everything")
    e = engine(model)

    def said(seed: int | None) -> tuple[list[int], int]:
        e.truncate(0)
        sampler = Sampler(SamplerConfig(temperature=1.5, seed=seed), e.vocab, e.vocab)
        progress = Progress()
        list(generate_tokens(e, [3, 4, 5], sampler, max_tokens=20, stop_ids=NEVER, progress=progress))
        return progress.tokens, sampler.seed

    assert said(5) == said(5)
    assert len({tuple(said(seed)[0]) for seed in range(6)}) == 6
    tokens, seed = said(None)
    assert said(seed) == (tokens, seed)
    assert said(None)[1] != seed


@pytest.mark.parametrize("name", ["plain", "window_mixed", "odd_sizes"])
@pytest.mark.parametrize(
    "config",
    [GREEDY, SamplerConfig(temperature=1.3, top_p=0.9, repetition_penalty=1.2, seed=11)],
    ids=["greedy", "hot"],
)
def test_a_batch_says_what_each_would_say_alone(name: str, config: SamplerConfig) -> None:
    """Prompts of different lengths, answers that stop at different times: a stop id, the context, the count."""
    model = lowered(name)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, model.config.vocab, n).tolist() for n in (1, 44, 9, 20)]
    alone: list[Progress] = []
    for i, prompt in enumerate(prompts):
        own = replace(config, seed=config.seed + i) if config.seed is not None else config
        alone.append(answer(engine(model), prompt, 12, config=own))
    stop = frozenset({alone[2].tokens[4]})
    for n in (1, 2, 3, 4):
        e = engine(model)
        e.feed([1, 2, 3], n - 1)  # slots are emptied first
        together = batch(e, prompts[:n], 12, config=config)
        assert [p.tokens for p in together] == [p.tokens for p in alone[:n]]
        assert [p.finish for p in together] == ["length", "context", "length", "length"][:n]
    e = engine(model)
    for got, whole in zip(batch(e, prompts, 12, config=config, stop_ids=stop), alone, strict=True):
        cut = next((i for i, token in enumerate(whole.tokens) if token in stop), None)
        assert got.tokens == whole.tokens[:cut]
        assert (got.finish == "stop") == (cut is not None)
    assert batch(e, [], 5) == []


def test_ids_without_a_token_are_never_sampled() -> None:
    model = lowered("plain")
    e = engine(model)
    for config in (GREEDY, SamplerConfig(temperature=50.0, seed=1), SamplerConfig(temperature=2.0, top_k=60, seed=1)):
        for allowed in (1, 7, 66):
            e.truncate(0)
            progress = Progress()
            sampler = Sampler(config, e.vocab, allowed)
            said = generate_tokens(e, [60, 66], sampler, max_tokens=30, stop_ids=NEVER, progress=progress)
            assert max(said) < allowed
            for p in batch(e, [[60], [66]], 15, config=config, allowed=allowed):
                assert max(p.tokens) < allowed


# Stop strings


def first_complete(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop that is complete first, the longest of those that end together."""
    for end in range(len(text) + 1):
        ending = [len(s) for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(ending)], True
    return text, False


def through(stops: Sequence[str], pieces: Sequence[str]) -> tuple[str, bool]:
    strings = StopStrings(stops)
    out = ""
    for i, piece in enumerate(pieces):
        out += strings.push(piece)
        seen = "".join(pieces[: i + 1])
        assert seen.startswith(out)
        if not strings.hit:  # held back is only what may yet become a stop
            held = seen[len(out) :]
            assert not held or any(s.startswith(held) and s != held for s in stops)
    return out + strings.flush(), strings.hit


@pytest.mark.parametrize(
    ("text", "stops"),
    [
        ("one\n\ntwo", ["\n\n"]),
        ("aababcab", ["abc"]),
        ("aaaaaaab", ["aab"]),
        ("xabcdabx", ["abcde", "bcd"]),
        ("xabcdey", ["bcd", "abcde", "cde"]),
        ("ends in a sto", ["stop"]),
        ("nothing", []),
        ("é\u2028中", ["\u2028中"]),
        ("xyzxyz", ["z", "yz", "xyz"]),
    ],
)
def test_stop_strings_in_every_split(text: str, stops: list[str]) -> None:
    want = first_complete(text, stops)
    for cuts in range(1 << (len(text) - 1)):
        pieces, start = [], 0
        for i in range(len(text)):
            if cuts >> i & 1 or i == len(text) - 1:
                pieces.append(text[start : i + 1])
                start = i + 1
        assert through(stops, pieces) == want


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_on_any_text(pieces: list[str], stops: list[str]) -> None:
    assert through(stops, pieces) == first_complete("".join(pieces), stops)


def test_nothing_comes_after_a_stop_string() -> None:
    strings = StopStrings(["ab"])
    assert [strings.push(p) for p in ("xa", "bc", "ab", "d")] == ["x", "", "", ""]
    assert (strings.flush(), strings.hit) == ("", True)
    with pytest.raises(RunError, match=r"^stop: an empty string; expected at least one character"):
        StopStrings(["a", ""])


# Text

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
