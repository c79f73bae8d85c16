"""Llama 3's tiktoken file and byte-level vocabularies of GGUF: against plain references; files that are not right."""

from __future__ import annotations

import base64
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.errors import TokenizerError
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer
from graphllm.runtime.tokenizer.tiktoken_file import merged, read_ranks, special_names
from tests.gguf_writer import write_gguf
from tests.shared_data import shared


def file_of(ranks: dict[bytes, int]) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())


def synthetic(seed: int, count: int = 120, letters: bytes = b"ab ") -> dict[bytes, int]:
    """All bytes, and tokens that are each two earlier ones put together, over few letters so that many pairs tie."""
    rng = np.random.default_rng(seed)
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokens = [bytes([letter]) for letter in letters]
    while len(ranks) < 256 + count:
        one, other = (tokens[i] for i in rng.integers(0, len(tokens), 2))
        if one + other not in ranks and len(one + other) < 12:
            ranks[one + other] = len(ranks)
            tokens.append(one + other)
    return ranks


def by_definition(data: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Merge the pair of lowest rank, the leftmost of equal ones, until there is none. Quadratic."""
    parts = [data[i : i + 1] for i in range(len(data))]
    while True:
        pairs = [ranks.get(one + other, 1 << 60) for one, other in pairwise(parts)]
        if not pairs or min(pairs) == 1 << 60:
            return [ranks[part] for part in parts]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@pytest.mark.parametrize("seed", range(12))
def test_words_are_merged_by_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ranks = synthetic(seed)
    for _ in range(60):
        data = bytes(rng.choice(list(b"ab "), rng.integers(1, 80)).tolist())
        assert merged(data, ranks) == by_definition(data, ranks)


def test_specials_follow_the_file() -> None:
    ranks = synthetic(0)
    tokenizer = load_tokenizer(TokenizerData("tiktoken", file_of(ranks)), 10_000)
    base = len(ranks)
    assert tokenizer.vocab_size == base + 256
    assert tokenizer.bos_id == base
    assert tokenizer.eos_ids == (base + 1, base + 9)
    names = special_names(128000)
    assert names["<|begin_of_text|>"] == 128000
    assert names["<|reserved_special_token_3|>"] == 128005
    assert names["<|start_header_id|>"] == 128006
    assert names["<|end_header_id|>"] == 128007
    assert names["<|reserved_special_token_4|>"] == 128008
    assert names["<|eot_id|>"] == 128009
    assert names["<|reserved_special_token_5|>"] == 128010
    assert max(names.values()) == 128255
    assert set(names.values()) == set(range(128000, 128256))
    assert (names["<|finetune_right_pad_id|>"], names["<|eom_id|>"], names["<|python_tag|>"]) == (
        128004,
        128008,
        128010,
    )


def test_special_names_in_a_text_are_text_unless_asked_for() -> None:
    ranks = synthetic(1)
    tokenizer = load_tokenizer(TokenizerData("tiktoken", file_of(ranks)), 10_000)
    base = len(ranks)
    text = "ab<|eot_id|>a<|eom_id|>"
    plain = tokenizer.encode(text, bos=False)
    assert max(plain) < base
    assert tokenizer.encode(text) == [base, *plain]
    assert tokenizer.decode(plain) == text
    read = tokenizer.encode(text, bos=False, special=True)
    assert [i for i in read if i >= base] == [base + 9, base + 8]
    assert tokenizer.decode(read) == "aba"
    assert tokenizer.decode(read, skip_special=False) == text
    assert tokenizer.encode("<|not_one|>", special=True, bos=False) == tokenizer.encode("<|not_one|>", bos=False)


def test_vectors_of_the_published_file() -> None:
    data = find_tokenizer(shared("tokenizers/llama3"), shared("tokenizers/llama3/tokenizer.model"))
    assert data is not None
    assert data.kind == "tiktoken"
    tokenizer = load_tokenizer(data, 128256)
    text = "This is a test sentence."
    assert tokenizer.encode(text) == [128000, 2028, 374, 264, 1296, 11914, 13]
    chat = (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = tokenizer.encode(chat, bos=False, special=True)
    head = [128000, 128006, 9125, 128007, 271, 13347, 128009, 128006, 882, 128007, 271, 13347, 128009]
    assert ids == [*head, 128006, 78191, 128007, 271]
    with pytest.raises(TokenizerError, match="does not belong to this model"):
        load_tokenizer(data, 128255)


@pytest.mark.parametrize(
    "text", ["a" * 400_000, " " * 400_000, "ab" * 200_000, "1" * 300_000, "\n" * 300_000, "é" * 200_000]
)
def test_long_words_take_no_forever(text: str) -> None:
    tokenizer = load_tokenizer(TokenizerData("tiktoken", file_of(synthetic(2))), 10_000)
    began = time.process_time()
    assert tokenizer.decode(tokenizer.encode(text, bos=False)) == text
    assert time.process_time() - began < 60


GOOD = file_of(synthetic(3, 4))
BAD = {
    "base64": (GOOD + b"!!!! 260\n", r"line 261 is b'!!!! 260'; expected base64 and a rank"),
    "no rank": (GOOD + b"YWJj\n", "line 261 is .*; expected base64 and a rank"),
    "rank is text": (GOOD + b"YWJj x\n", "line 261"),
    "huge rank": (GOOD + b"YWJj " + b"9" * 4000 + b"\n", "line 261"),
    "twice": (GOOD + GOOD[:7] + b"\n", "line 261"),
    "hole": (GOOD + b"YWJj 400\n", "ranks have holes or repeat; expected 0 to 260"),
    "repeat": (GOOD + b"YWJj 259\n", "ranks have holes or repeat"),
    "no byte": (file_of({bytes([byte]): byte - 1 for byte in range(1, 256)}), "byte 00 is no token"),
    "many lines": (b"\n" * (1 << 21), "more than 1048576 lines"),
    "empty": (b"", "byte 00 is no token"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(kind: str) -> None:
    content, message = BAD[kind]
    with pytest.raises(TokenizerError, match=rf"^[^\n]*{message}[^\n]*$"):
        read_ranks(content)


def gguf_of(path: Path, name: str, pre: str, **more: Any) -> Tokenizer:
    """A GGUF vocabulary made from a published tokenizer.json, as converters make it."""
    document = json.loads(shared(f"tokenizers/{name}/tokenizer.json").read_text("utf-8"))
    vocabulary = dict(document["model"]["vocab"])
    special = {token["content"]: token for token in document["added_tokens"]}
    ids = vocabulary | {text: token["id"] for text, token in special.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    said = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            1 if text not in special else 3 if special[text]["special"] else 4 for text in tokens
        ],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in document["model"]["merges"]],
    }
    write_gguf(path, said | more, {})
    data = find_tokenizer(path.parent, path)
    assert data is not None
    return load_tokenizer(data, len(tokens))


@pytest.mark.parametrize(
    ("name", "pre", "ids", "ends"),
    [
        ("llama3", "llama-bpe", {"bos_token_id": 128000, "eos_token_id": 128009}, {128001, 128008, 128009}),
        ("qwen2", "qwen2", {"eos_token_id": 151645, "bos_token_id": 151643, "add_bos_token": False}, {151643, 151645}),
    ],
)
def test_byte_level_vocabularies_of_gguf(tmp_path: Path, name: str, pre: str, ids: Any, ends: set[int]) -> None:
    tokenizer = gguf_of(tmp_path / "v.gguf", name, pre, **{f"tokenizer.ggml.{key}": v for key, v in ids.items()})
    assert set(tokenizer.eos_ids) == ends
    for line in shared(f"tokenizers/{name}/cases.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        assert tokenizer.encode(case["text"], bos=None if case["add_special_tokens"] else False) == case["ids"]
    vocabulary = {"llama3": "llama-bpe", "qwen2": "qwen2"}[name]
    base = f"tokenizers/gguf_vocab/ggml-vocab-{vocabulary}.gguf"
    texts = shared(f"{base}.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    for text, line in zip(texts, shared(f"{base}.out").read_text("utf-8").split("\n"), strict=True):
        assert tokenizer.encode(text, bos=False) == [int(i) for i in line.split()], text


BYTES = [chr(i) for i in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))] + [
    chr(256 + i) for i in range(68)
]


def document(**changes: Any) -> bytes:
    said = {"model": "gpt2", "pre": "qwen2", "tokens": [*BYTES, "ab", "<|x|>"], "token_type": [1] * 257 + [3]}
    return json.dumps(said | {"merges": ["a b"]} | changes).encode()


def test_a_small_vocabulary_works() -> None:
    tokenizer = load_tokenizer(TokenizerData("gguf", document()), 300)
    assert tokenizer.encode("ab ba") == [256, BYTES.index("\u0120"), BYTES.index("b"), BYTES.index("a")]
    assert tokenizer.encode("<|x|>", special=True) == [257]
    assert max(tokenizer.encode("<|x|>", special=False)) < 256
    # special tokens in front of ordinary ones keep their ids
    front = document(tokens=["<|x|>", *BYTES, "ab"], token_type=[3] + [1] * 257)
    tokenizer = load_tokenizer(TokenizerData("gguf", front), 300)
    assert tokenizer.encode("<|x|>ab", special=True) == [0, 257]


WRONG = {
    "not json": (b"{", "not JSON"),
    "a list": (b"[]", "expected an object"),
    "deep": (b"[" * 100_000, "not JSON"),
    "tokens": (document(tokens=5), "tokens; expected a list of str"),
    "token": (document(tokens=[5]), "tokens; expected a list of str"),
    "types": (document(token_type=[1]), "token_type has 1 entries; expected 258"),
    "type": (document(token_type=["a"]), "token_type; expected a list of int"),
    "scores": (document(scores=[1.0]), "scores has 1 entries; expected 258"),
    "nan": (document(scores=[float("nan")] * 258), "scores hold NaN or infinity"),
    "pre": (document(pre="tekken"), "pre-tokenizer 'tekken' is not supported; expected one of llama-bpe"),
    "model": (document(model="t5"), "vocabulary 't5' is not supported; expected llama"),
    "twice": (document(tokens=["a"] * 258), "are there twice"),
    "merge": (document(merges=["x y"]), "cannot be read"),
    "merge of one": (document(merges=["x"]), "cannot be read"),
    "empty piece": (document(model="llama", tokens=[""] * 258), "cannot be read"),
    "piece types": (document(model="llama", token_type=[99] * 258), "cannot be read"),
    "no unknown": (document(model="llama", token_type=[1] * 258), "cannot be read"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_vocabularies(kind: str) -> None:
    blob, message = WRONG[kind]
    with pytest.raises(TokenizerError, match=rf"^[^\n]*{message}[^\n]*$"):
        load_tokenizer(TokenizerData("gguf", blob), 300)
