"""What a tokenizer's file may say that we do not do, and files that are damaged: one line each."""

from __future__ import annotations

import json
import random
import re
import struct

import pytest

from graphllm.errors import TokenizerError
from graphllm.plan.tokenizer_data import TokenizerData, TokenizerKind
from graphllm.runtime.tokenizer import load_tokenizer
from tests.made_tokenizers import (
    FRAGMENTS,
    KINDS,
    SENTENCES,
    byte_level_file,
    check_streaming,
    llama2c_file,
    made,
    made_file,
    sentencepiece_model,
)


def edited(**changes: object) -> TokenizerData:
    return TokenizerData("tokenizer.json", json.dumps(json.loads(byte_level_file()) | changes).encode("utf-8"))


def test_other_models_and_decoders_are_refused_by_name() -> None:
    word_level = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    with pytest.raises(TokenizerError, match="expected BPE, got WordLevel"):
        load_tokenizer(edited(model=word_level), 512)
    with pytest.raises(TokenizerError, match="WordPiece"):
        load_tokenizer(edited(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), 512)
    with pytest.raises(TokenizerError, match="got none"):
        load_tokenizer(edited(decoder=None), 512)


@pytest.mark.parametrize("pattern", [{"String": "a"}, {"String": ""}, {"Regex": ""}])
def test_replacements_that_explode_are_refused(pattern: dict[str, str]) -> None:
    steps = [{"type": "Replace", "pattern": pattern, "content": "aa"}] * 60
    nested = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": steps[:30]}, *steps[30:]]}
    with pytest.raises(TokenizerError, match=r"normalizers; expected texts to grow"):
        load_tokenizer(edited(normalizer=nested), 512)
    with pytest.raises(TokenizerError, match=r"decoders; expected texts to grow"):
        load_tokenizer(edited(decoder={"type": "Sequence", "decoders": steps}), 512)


def test_padding_and_truncation_of_the_file_are_ignored() -> None:
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "x"}
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tokenizer = load_tokenizer(edited(padding=padding, truncation=truncation), 512)
    assert tokenizer.encode(SENTENCES[0]) == made("tokenizer.json").encode(SENTENCES[0])


def test_both_spellings_of_merges_agree() -> None:
    model = json.loads(byte_level_file())["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    for spelling in (merges, [" ".join(pair) for pair in merges]):
        tokenizer = load_tokenizer(edited(model=model | {"merges": spelling}), 512)
        assert tokenizer.encode(SENTENCES[1]) == made("tokenizer.json").encode(SENTENCES[1])


def test_unigram_models_and_character_maps_are_refused_by_name() -> None:
    import io

    import sentencepiece

    for model_type, rule, message in (("unigram", "identity", "got unigram"), ("bpe", "nmt_nfkc", "nmt_nfkc")):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES), model_writer=model, vocab_size=60, model_type=model_type,
            normalization_rule_name=rule, hard_vocab_limit=False, minloglevel=3,
        )  # fmt: skip
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(TokenizerData("sentencepiece", model.getvalue()), 512)


@pytest.mark.parametrize("config", ["{", "[]", '{"eos_token": 3}', '{"bos_token": "\\ud800"}', "[" * 100_000])
def test_bad_settings(config: str) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        load_tokenizer(TokenizerData("tokenizer.json", byte_level_file(), config), 512)


def refusal(data: TokenizerData) -> str:
    """Why it does not load or work, "" if it does; TokenizerError is the only other way out."""
    message = ""
    try:
        tokenizer = load_tokenizer(data, 512)
        for text in (SENTENCES[2], FRAGMENTS):
            tokenizer.encode(text, special=True)
        check_streaming(tokenizer, range(-1, 520), 20)
        for token in range(-1, 520):
            tokenizer.piece(token)
    except TokenizerError as e:
        message = str(e)
    assert message.isprintable()
    return message


def test_truncated_llama2c_file_at_every_length() -> None:
    blob = llama2c_file()
    ends, at = {4}, 4
    while at < len(blob):
        at += 8 + struct.unpack_from("<I", blob, at + 4)[0]
        ends.add(at)
    for length in range(len(blob)):
        message = refusal(TokenizerData("llama2.c", blob[:length]))
        if length in ends and len([end for end in ends if end <= length]) > 259:
            assert message == ""  # the format does not say how many records there are
        else:
            assert re.fullmatch(r"tokenizer\.bin: .*", message)


@pytest.mark.parametrize("kind", ["sentencepiece", "tokenizer.json"])
def test_truncated_files(kind: TokenizerKind) -> None:
    blob = sentencepiece_model() if kind == "sentencepiece" else byte_level_file()
    for length in range(len(blob)):
        assert re.fullmatch(r"tokenizer\.(model|json): .*", refusal(TokenizerData(kind, blob[:length])))


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bytes(kind: TokenizerKind) -> None:
    blob = made_file(kind)
    assert refusal(TokenizerData(kind, blob)) == ""
    rng = random.Random()
    for _ in range(250):
        damaged = bytearray(blob)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        refusal(TokenizerData(kind, bytes(damaged)))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"\x07\0", "header"),
        (struct.pack("<IfI", 7, 0.0, 2**32 - 1) + b"abc", "at most 7 bytes"),
        (struct.pack("<IfI", 2**32 - 1, 0.0, 2**31) + b"abc", "truncated"),
        (struct.pack("<IfI", 7, float("nan"), 1) + b"a", "finite"),
        (struct.pack("<IfI", 7, 0.0, 2) + b"\xff\xfe", "UTF-8"),
        (struct.pack("<IfI", 7, 0.0, 1) + b"a", "at least 259"),
    ],
)
def test_bad_llama2c_files(blob: bytes, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(TokenizerData("llama2.c", blob), 512)
