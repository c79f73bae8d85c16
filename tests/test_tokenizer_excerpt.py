"""A tokenizer.json by its index: every id as the library gives it that has read the whole file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphllm
from graphllm.compiler import tokenizer_index
from graphllm.compiler.tokenizer_index import kept_index
from graphllm.errors import TokenizerError
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import Tokenizer, excerpt, load_tokenizer
from graphllm.runtime.tokenizer.decode_rule import BYTE_LEVEL
from graphllm.runtime.tokenizer.excerpt import Excerpt, index_of
from tests.made_tokenizers import FRAGMENTS, SENTENCES, byte_level_file, random_text, sentencepiece_model
from tests.shared_data import shared

Document = dict[str, Any]


def document() -> Document:
    return json.loads(byte_level_file())


def with_variants() -> Document:
    """Merges ignored for whole words, added tokens of every kind behind the words, merges in one text."""
    made = document()
    made["model"]["ignore_merges"] = True
    made["model"]["vocab"]["qqq"] = first = len(made["model"]["vocab"])  # a word that no merges lead to
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    made["added_tokens"] += [
        plain | {"id": first + 1, "content": "<|stripped|>", "lstrip": True, "rstrip": True, "special": True},
        plain | {"id": first + 2, "content": "lovely day"},
        plain | {"id": first + 3, "content": "Lily.", "single_word": True, "normalized": False},
    ]
    made["model"]["merges"] = [" ".join(pair) for pair in made["model"]["merges"]]
    made["normalizer"] = {"type": "NFC"}
    return made


def pair_of(blob: bytes, rows: int = 1 << 20) -> tuple[Tokenizer, Tokenizer]:
    """The same file with and without its index."""
    data = TokenizerData("tokenizer.json", blob)
    index = index_of(blob)
    assert index
    return load_tokenizer(data, rows, index), load_tokenizer(data, rows)


def read_whole(tokenizer: Tokenizer) -> bool:
    return "_library" in vars(tokenizer)


def check_alike(ours: Tokenizer, whole: Tokenizer, texts: list[str]) -> None:
    assert not read_whole(ours)
    for name in ("vocab_size", "bos_id", "eos_ids", "special_names", "leading_spaces"):
        assert getattr(ours, name) == getattr(whole, name), name
    for token in range(-1, ours.vocab_size + 2):
        for skip in (False, True):
            assert ours.bytes_of(token, skip_special=skip) == whole.bytes_of(token, skip_special=skip), token
    for text in texts:
        for special in (None, False, True):
            assert ours.encode(text, special=special) == whole.encode(text, special=special), (text, special)
    assert not read_whole(ours)


@pytest.mark.parametrize("make", [document, with_variants])
def test_every_id_is_the_library_s(make: Callable[[], Document], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpt, "SHORT", 1 << 30)
    rng = random.Random()
    ours, whole = pair_of(json.dumps(make()).encode())
    names = [*whole.special_names, "lovely day", " Lily. ", "Lily.", "qqq", "qqqs", "a\u0301"]
    texts = ["", *SENTENCES, FRAGMENTS, "a" * 300]
    for _ in range(300):
        text = random_text(rng)
        at = rng.randint(0, len(text))
        texts += [text, text[:at] + rng.choice(names) + text[at:]]
    check_alike(ours, whole, texts)


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_real_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpt, "SHORT", 1 << 30)
    ours, whole = pair_of(shared(f"tokenizers/{name}/tokenizer.json").read_bytes())
    lines = shared(f"tokenizers/{name}/cases.jsonl").read_text("utf-8").splitlines()
    rng = random.Random()
    texts = [json.loads(line)["text"] for line in lines]
    for _ in range(300):
        text = rng.choice(texts)
        begin, end = sorted(rng.choices(range(len(text) + 1), k=2))
        texts.append(text[begin:end] + rng.choice(["", *whole.special_names]) + text[end:])
    check_alike(ours, whole, texts)


def test_the_whole_file_is_read_when_texts_become_long_or_hold_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpt, "SHORT", 100)
    long = "".join(SENTENCES)
    for then in (lambda t: t.encode(long), lambda t: [t.encode(SENTENCES[0]) for _ in range(3)][-1]):
        ours, whole = pair_of(byte_level_file())
        ours.encode(SENTENCES[0])
        assert not read_whole(ours)
        assert then(ours) == then(whole)
        assert read_whole(ours)
        assert ours.encode("a") == whole.encode("a")
    ours, whole = pair_of(byte_level_file())
    parts = [("<|begin|>", True), ("a cat, <|im_end|>", False)]
    assert ours.encode_parts(parts) == whole.encode_parts(parts)
    assert read_whole(ours)


def holes(made: Document) -> None:
    made["model"]["vocab"]["beyond"] = len(made["model"]["vocab"]) + 1


def two_lines(made: Document) -> None:
    made["model"]["vocab"]["a\nb"] = len(made["model"]["vocab"])


def a_byte_less(made: Document) -> None:
    made["model"]["vocab"]["new"] = made["model"]["vocab"].pop(next(iter(BYTE_LEVEL)))


def numbered_otherwise(made: Document) -> None:
    made["added_tokens"].append(made["added_tokens"][0] | {"content": "<|new|>", "id": 999})


def twice(made: Document) -> None:
    made["added_tokens"].append(made["added_tokens"][0])


def unknown(made: Document) -> None:
    made["model"]["unk_token"] = "<|begin|>"


def suffixed(made: Document) -> None:
    made["model"]["end_of_word_suffix"] = "</w>"


def dropped(made: Document) -> None:
    made["model"]["dropout"] = 0.1


def not_bytes(made: Document) -> None:
    made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [made["pre_tokenizer"], {"type": "Whitespace"}]}


def no_pre_tokenizer(made: Document) -> None:
    made["pre_tokenizer"] = None


def merged_to_nothing(made: Document) -> None:
    made["model"]["merges"].append(["q", "q"])


def no_merges(made: Document) -> None:
    made["model"]["merges"] = []


def another_model(made: Document) -> None:
    made["model"]["type"] = "WordPiece"


@pytest.mark.parametrize(
    "change",
    [
        *(holes, two_lines, a_byte_less, numbered_otherwise, twice, unknown, suffixed, dropped),
        *(not_bytes, no_pre_tokenizer, merged_to_nothing, no_merges, another_model),
    ],
)
def test_what_has_no_index(change: Callable[[Document], None]) -> None:
    made = document()
    assert index_of(json.dumps(made).encode())
    change(made)
    assert index_of(json.dumps(made).encode()) == b""


@pytest.mark.parametrize(
    "blob", [b"", b"{}", b"[]", b"null", b'{"model": []}', b"[" * 100_000, b"\xff", b'{"model": {"vocab": {"a": "b"}}}']
)
def test_what_is_no_tokenizer_has_no_index(blob: bytes) -> None:
    assert index_of(blob) == b""


def test_an_index_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    made: list[int] = []

    def counted(blob: bytes) -> bytes:
        made.append(len(blob))
        return index_of(blob)

    monkeypatch.setattr(excerpt, "index_of", counted)
    data = TokenizerData("tokenizer.json", byte_level_file())
    assert kept_index(data) is None  # so small a file is read as fast
    monkeypatch.setattr(excerpt, "INDEXED_FROM", 0)
    assert kept_index(data) == kept_index(data) == index_of(data.blob)
    assert len(made) == 1
    (file,) = (tmp_path / "cache" / "tokenizers").iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    assert kept_index(data) == index_of(data.blob)
    assert len(made) == 2
    assert kept_index(TokenizerData("sentencepiece", sentencepiece_model())) is None
    hopeless = TokenizerData("tokenizer.json", b"{}")
    assert kept_index(hopeless) is kept_index(hopeless) is None
    assert len(made) == 3
    with pytest.raises(TokenizerError, match=r"^tokenizer\.json: cannot be read; "):
        load_tokenizer(hopeless, 512, kept_index(hopeless))


def test_where_nothing_can_be_kept_the_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(excerpt, "INDEXED_FROM", 0)
    assert kept_index(TokenizerData("tokenizer.json", byte_level_file())) is None


def test_a_model_reads_no_more_than_a_prompt_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(excerpt, "INDEXED_FROM", 0)
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file())
    plan = graphllm.compile("demo", tmp_path / "demo.gllm", tokenizer=tmp_path / "tokenizer.json", target="numpy")
    assert len(list((tmp_path / "cache" / "tokenizers").iterdir())) == 1  # compiled is when it is made
    answers: list[list[int]] = []
    for index in (kept_index, lambda data: None):
        monkeypatch.setattr(tokenizer_index, "kept_index", index)
        model = graphllm.load(plan.path)
        answer = model.generate("The cat sat on", max_tokens=8, ignore_eos=True)
        assert model.tokenizer is not None
        assert read_whole(model.tokenizer) == (index is not kept_index)
        answers.append([*model.encode("The cat sat on"), *answer.tokens])
    assert answers[0] == answers[1]


def test_an_excerpt_says_when_the_whole_file_pays() -> None:
    ours = Excerpt(index_of(byte_level_file()))
    assert ours.encode("a " * (excerpt.SHORT // 2 - 1), add_special=False) is not None
    assert ours.encode("a", add_special=False) is not None
    assert ours.encode("a bc", add_special=False) is None
    made = document()
    made["model"]["vocab"]["q" * 2000] = len(made["model"]["vocab"])  # so that any part of a word may be one
    assert Excerpt(index_of(json.dumps(made).encode())).encode("q" * 1000, add_special=False) is None
