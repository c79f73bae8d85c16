"""Tokenizers: the published ids and texts of real ones, from the public test data."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path

import pytest

from graphllm.errors import TokenizerError
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer
from tests.made_tokenizers import FRAGMENTS, check_streaming
from tests.shared_data import shared

GOLDEN = {  # the file: its cases, the vocabulary of its model
    "tokenizers/llama2/tokenizer.model": ("tokenizers/llama2/cases.jsonl", 32000),
    "tokenizers/llama2/tokenizer.bin": ("tokenizers/llama2/cases.jsonl", 32000),
    "tokenizers/llama2/tokenizer.json": ("tokenizers/llama2/cases.jsonl", 32000),
    "tokenizers/llama3/tokenizer.json": ("tokenizers/llama3/cases.jsonl", 128256),
    "tokenizers/llama3/tokenizer.model": ("tokenizers/llama3/cases.jsonl", 128256),
    "tokenizers/gguf_vocab/ggml-vocab-llama-spm.gguf": ("tokenizers/llama2/cases.jsonl", 32000),
    "tokenizers/qwen2/tokenizer.json": ("tokenizers/qwen2/cases.jsonl", 151936),  # its model is padded
    "tokenizers/tok512/tok512.bin": ("tokenizers/tok512/cases.jsonl", 512),
    "tokenizers/tok512/tokenizer.json": ("tokenizers/tok512/cases.jsonl", 512),
    "real/story-hf/tokenizer.json": ("tokenizers/story_cases.jsonl", 2048),
}
LLAMA_CPP = {
    "tokenizers/llama2/tokenizer.model": "llama-spm",
    "tokenizers/llama2/tokenizer.bin": "llama-spm",
    "tokenizers/llama2/tokenizer.json": "llama-spm",
    "tokenizers/gguf_vocab/ggml-vocab-llama-spm.gguf": "llama-spm",
    "tokenizers/llama3/tokenizer.json": "llama-bpe",
    "tokenizers/llama3/tokenizer.model": "llama-bpe",
    "tokenizers/qwen2/tokenizer.json": "qwen2",
}


def golden(name: str) -> Tokenizer:
    return _golden(shared(name), GOLDEN[name][1])


@cache
def _golden(path: Path, vocab: int) -> Tokenizer:
    data = find_tokenizer(path.parent, path)
    assert data is not None
    return load_tokenizer(data, vocab)


def cases(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in shared(GOLDEN[name][0]).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ids_and_texts(name: str) -> None:
    tokenizer = golden(name)
    for case in cases(name):
        text = str(case["text"])
        special = (
            True if name == "tokenizers/llama3/tokenizer.model" else None
        )  # the cases read names of special tokens
        ids = tokenizer.encode(text, bos=None if case["add_special_tokens"] else False, special=special)
        assert ids == case["ids"], text
        if "decoded" in case:
            assert tokenizer.decode(case["ids"], skip_special=False) == case["decoded"]


@pytest.mark.parametrize("name", LLAMA_CPP)
def test_llama_cpp_ids(name: str) -> None:
    tokenizer = golden(name)
    vocab = f"tokenizers/gguf_vocab/ggml-vocab-{LLAMA_CPP[name]}.gguf"
    texts = shared(f"{vocab}.inp").read_bytes().decode("utf-8").split("\n__ggml_vocab_test__\n")
    lines = shared(f"{vocab}.out").read_text("utf-8").split("\n")
    assert len(texts) >= 46
    for text, line in zip(texts, lines, strict=True):
        assert tokenizer.encode(text, bos=False) == [int(i) for i in line.split()], text


@pytest.mark.parametrize(
    ("name", "bos", "eos"),
    [
        ("tokenizers/llama2/tokenizer.model", 1, (2,)),
        ("tokenizers/llama2/tokenizer.bin", 1, (2,)),
        ("tokenizers/llama3/tokenizer.json", 128000, (128009,)),
        ("tokenizers/qwen2/tokenizer.json", None, (151645,)),
        ("real/story-hf/tokenizer.json", 1, (2,)),
    ],
)
def test_who_begins_and_ends(name: str, bos: int | None, eos: tuple[int, ...]) -> None:
    tokenizer = golden(name)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (bos, eos)
    if bos is None:
        with pytest.raises(TokenizerError, match="no BOS"):
            tokenizer.encode("a", bos=True)
    else:
        assert tokenizer.encode("a", bos=True) == [bos, *tokenizer.encode("a", bos=False)]


def test_llama2c_golden_encodings() -> None:
    tokenizer = golden("tokenizers/tok512/tok512.bin")
    expected = {
        "": [],
        "Once upon a time": [403, 407, 261, 378],
        " Once": [410, 403],
        "你好": [410, 231, 192, 163, 232, 168, 192],
        "Héllo 😀": [320, 485, 306, 414, 410, 243, 162, 155, 131],
        "a\nb": [261, 13, 430],
        "<s>": [410, 504, 419, 505],  # llama2.c reads no special names
        "  two  spaces": [410, 410, 259, 424, 414, 410, 262, 427, 412, 331, 419],
    }
    for text, ids in expected.items():
        assert tokenizer.encode(text) == [1, *ids]


SPACES = " " * 8
LLAMA2C_PROMPTS = {  # what llama2.c's own tokenizer test asks, and its documentation
    "": [],
    "Once upon a time": [9038, 2501, 263, 931],
    "你好": [29871, 30919, 31076],
    "<s>": [529, 29879, 29958],
    "hello": [22172],
    "I believe the meaning of life is": [306, 4658, 278, 6593, 310, 2834, 338],
    "Simply put, the theory of relativity states that ": [
        *(3439, 17632, 1925, 29892, 278, 6368, 310, 14215, 537, 5922, 393, 29871)
    ],
    f"A brief message congratulating the team on the launch:\n\n{SPACES}Hi everyone,\n\n{SPACES}I just ": [
        *(319, 11473, 2643, 378, 629, 271, 18099, 278, 3815, 373, 278, 6826, 29901, 13, 13, 4706, 6324, 14332, 29892),
        *(13, 13, 4706, 306, 925, 29871),
    ],
    f"Translate English to French:\n\n{SPACES}sea otter => loutre de mer\n{SPACES}peppermint => menthe poivrée\n"
    f"{SPACES}plush girafe => girafe peluche\n{SPACES}cheese =>": [
        *(4103, 9632, 4223, 304, 5176, 29901, 13, 13, 4706, 7205, 4932, 357, 1149, 301, 449, 276, 316, 2778, 13, 4706),
        *(1236, 407, 837, 524, 1149, 6042, 354, 772, 440, 29878, 1318, 13, 4706, 715, 1878, 330, 3055, 1725, 1149, 330),
        *(3055, 1725, 4639, 28754, 13, 4706, 923, 968, 1149),
    ],
}


@pytest.mark.parametrize("name", ["tokenizer.bin", "tokenizer.model"])
def test_llama2c_own_prompts(name: str) -> None:
    tokenizer = golden(f"tokenizers/llama2/{name}")
    for text, ids in LLAMA2C_PROMPTS.items():
        assert tokenizer.encode(text) == [1, *ids], text


def test_a_space_between_words_and_digits_beside_digits() -> None:
    """Where KuiperLLama goes wrong: it spells spaces twice, and splits Llama 3's digits as Qwen's."""
    for name in ("tokenizers/llama3/tokenizer.json", "tokenizers/llama3/tokenizer.model"):
        assert golden(name).encode("hello world", bos=False) == [15339, 1917]
        assert golden(name).encode("12345", bos=False) == [4513, 1774]
    qwen = golden("tokenizers/qwen2/tokenizer.json")
    assert qwen.encode("hello world") == [14990, 1879]
    assert qwen.encode("12345") == [16, 17, 18, 19, 20]
    assert qwen.encode("e\u0301") == qwen.encode("\u00e9")  # NFC


def test_chat_texts_of_llama2_read_special_names_when_asked() -> None:
    rows = [json.loads(line) for line in shared("chat_templates/end_to_end_ids.jsonl").read_text("utf-8").splitlines()]
    rows = [row for row in rows if row["tokenizer"] == "llama2"]
    assert rows
    reference = golden("tokenizers/llama2/tokenizer.json")
    for row in rows:
        text = reference.decode(row["ids"], skip_special=False)
        expected = reference.encode(text, bos=False)
        for name in ("tokenizers/llama2/tokenizer.model", "tokenizers/llama2/tokenizer.bin"):
            assert golden(name).encode(text, bos=False, special=True) == expected


def test_special_names_as_plain_text() -> None:
    tokenizer = golden("tokenizers/qwen2/tokenizer.json")
    text = "a<|im_end|>b"
    assert 151645 in tokenizer.encode(text)
    plain = tokenizer.encode(text, special=False)
    assert 151645 not in plain
    assert tokenizer.decode(plain) == text
    assert 151645 in tokenizer.encode(text)  # the setting of one call does not leak into the next
    assert tokenizer.decode(tokenizer.encode(text)) == "ab"
    assert tokenizer.piece(151645) == "<|im_end|>"


@pytest.mark.parametrize("name", GOLDEN)
def test_streaming_golden(name: str) -> None:
    tokenizer = golden(name)
    rng = random.Random()
    for text in [*(str(case["text"]) for case in cases(name)), FRAGMENTS]:
        ids = tokenizer.encode(text)
        check_streaming(tokenizer, ids, rng.randint(0, len(ids)))
    for _ in range(100):
        ids = [rng.randrange(-2, tokenizer.vocab_size + 40) for _ in range(rng.randrange(40))]
        check_streaming(tokenizer, ids, rng.randint(0, len(ids)))


@pytest.mark.parametrize("name", ["tokenizers/llama2/tokenizer.json", "tokenizers/qwen2/tokenizer.json"])
def test_decoding_agrees_with_the_library_on_well_formed_text(name: str) -> None:
    from tokenizers import Tokenizer as Library

    tokenizer, library = golden(name), Library.from_file(str(shared(name)))
    rng = random.Random()
    for _ in range(300):
        ids = [rng.randrange(tokenizer.vocab_size) for _ in range(rng.randrange(12))]
        for skip in (True, False):
            expected = library.decode(ids, skip_special_tokens=skip)
            if "\ufffd" not in expected:
                assert tokenizer.decode(ids, skip_special=skip) == expected
