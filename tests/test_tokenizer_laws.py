"""Laws of tokenizers that are made here: streaming, agreement of the formats, what begins and what is refused."""

from __future__ import annotations

import json
import random
import struct

import pytest

from graphllm.errors import TokenizerError
from graphllm.plan.tokenizer_data import TokenizerData, TokenizerKind
from graphllm.runtime.tokenizer import load_tokenizer
from tests.made_tokenizers import (
    FRAGMENTS,
    KINDS,
    SENTENCES,
    check_streaming,
    llama2c_file,
    made,
    made_file,
    random_text,
    sentencepiece_model,
)


def llama2c_encode(pieces: list[str], scores: list[float], text: str) -> list[int]:
    """llama2.c's encoder, as its source has it: merge the best-scoring adjacent pair until none is left."""
    ids_of = {piece: i for i, piece in enumerate(pieces)}
    ids = [ids_of[" "]] if text else []
    for char in text:
        ids += [ids_of[char]] if char in ids_of else [byte + 3 for byte in char.encode("utf-8")]
    while True:
        best, best_at, best_id = -1e10, -1, -1
        for at in range(len(ids) - 1):
            merged = ids_of.get(pieces[ids[at]] + pieces[ids[at + 1]])
            if merged is not None and scores[merged] > best:
                best, best_at, best_id = scores[merged], at, merged
        if best_at < 0:
            return ids
        ids[best_at : best_at + 2] = [best_id]


def test_the_two_files_of_one_model_agree_with_llama2c() -> None:
    model, flat = made("sentencepiece"), made("llama2.c")
    assert (flat.vocab_size, flat.bos_id, flat.eos_ids) == (model.vocab_size, 1, (2,))
    pieces, scores, at = list[str](), list[float](), 4
    blob = llama2c_file()
    while at < len(blob):
        score, size = struct.unpack_from("<fI", blob, at)
        pieces.append(blob[at + 8 : at + 8 + size].decode("utf-8"))
        scores.append(score)
        at += 8 + size
    rng = random.Random()
    for text in [*SENTENCES, FRAGMENTS, *(random_text(rng) for _ in range(200))]:
        ids = flat.encode(text, bos=False)
        assert ids == model.encode(text, bos=False) == llama2c_encode(pieces, scores, text), text
        assert flat.decode(ids) == model.decode(ids) == text
    for token in range(-1, model.vocab_size + 2):
        assert flat.piece(token) == model.piece(token)


@pytest.mark.parametrize("kind", KINDS)
def test_text_survives_and_streams(kind: TokenizerKind) -> None:
    tokenizer = made(kind)
    rng = random.Random()
    for text in ["", " ", "  x", *SENTENCES, FRAGMENTS, *(random_text(rng) for _ in range(100))]:
        ids = tokenizer.encode(text, special=False)
        assert tokenizer.decode(ids) == text
        check_streaming(tokenizer, ids, rng.randint(0, len(ids)))
    for _ in range(200):
        ids = [rng.randrange(-2, tokenizer.vocab_size + 5) for _ in range(rng.randrange(30))]
        check_streaming(tokenizer, ids, rng.randint(0, len(ids)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_arrives_whole_and_as_soon_as_it_is(kind: TokenizerKind) -> None:
    tokenizer = made(kind)
    byte_id = {tokenizer.bytes_of(i, skip_special=True): i for i in reversed(range(tokenizer.vocab_size))}
    for char in sorted(set(FRAGMENTS)):
        data = char.encode("utf-8")
        stream = tokenizer.stream(tokenizer.encode("x"))
        assert [stream.push(byte_id[bytes([byte])]) for byte in data] == [""] * (len(data) - 1) + [char]
        for cut in range(1, len(data)):  # an unfinished character shows when something else follows, or at the end
            ids = [byte_id[bytes([byte])] for byte in data[:cut]]
            broken = data[:cut].decode("utf-8", "replace")
            stream = tokenizer.stream(tokenizer.encode("x") + ids)
            assert stream.push(byte_id[b"y"]) == broken + "y"
            stream = tokenizer.stream(tokenizer.encode("x") + ids)
            assert stream.flush() == broken
            assert tokenizer.piece(ids[0]) == f"<0x{data[0]:02X}>"


@pytest.mark.parametrize("kind", ["sentencepiece", "llama2.c"])
def test_leading_space_belongs_to_the_prompt(kind: TokenizerKind) -> None:
    tokenizer = made(kind)
    prompt, answer = tokenizer.encode("Once"), tokenizer.encode("the cat", bos=False)
    assert tokenizer.decode(answer) == "the cat"
    stream = tokenizer.stream(prompt)
    assert "".join(stream.push(i) for i in answer) + stream.flush() == " the cat"
    stream = tokenizer.stream([1])
    assert "".join(stream.push(i) for i in answer) + stream.flush() == "the cat"


def test_bos_follows_the_tokenizer() -> None:
    tokenizer = made("tokenizer.json")
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (0, (1,))
    bare = tokenizer.encode("hello", bos=False)
    assert tokenizer.encode("hello") == tokenizer.encode("hello", bos=True) == [0, *bare]
    config = json.dumps({"add_bos_token": False, "bos_token": {"content": "<s>"}, "eos_token": None})
    quiet = load_tokenizer(TokenizerData("sentencepiece", sentencepiece_model(), config), 512)
    assert quiet.encode("hello") == quiet.encode("hello", bos=False)
    assert (quiet.bos_id, quiet.eos_ids) == (1, ())


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_must_fit_the_model(kind: TokenizerKind) -> None:
    size = made(kind).vocab_size
    blob = made_file(kind)
    data = TokenizerData(kind, blob)
    assert load_tokenizer(data, size).vocab_size == size
    with pytest.raises(TokenizerError, match=rf"at most {size - 1} ids.*got {size}"):
        load_tokenizer(data, size - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_lone_surrogates_are_refused(kind: TokenizerKind) -> None:
    with pytest.raises(TokenizerError, match="surrogate"):
        made(kind).encode("a\ud800")
