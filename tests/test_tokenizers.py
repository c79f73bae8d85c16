"""Tokenizers: the published ids of real ones, laws of streaming, agreement of the three formats, and damaged files.

The golden cases need the public test data. Everything else trains or builds its tokenizers on the spot.
"""

from __future__ import annotations

import json
import os
import random
import re
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from graphllm.errors import TokenizerError
from graphllm.frontends.tokenizer_file import MAX_BYTES, find_tokenizer
from graphllm.plan.tokenizer_data import TokenizerData, TokenizerKind
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer
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
# Every split of these among byte tokens is a prefix that must not be shown.
FRAGMENTS = "é你好👩‍👩‍👧‍👦🏳️‍🌈 ½ \U0010ffff"
SENTENCES = [
    "Once upon a time there was a little girl named Lily.",
    "The cat sat on the mat, and the dog ran to the park.",
    "  two  spaces, tabs\tand\nlines; numbers 12345 67890!",
    "She said: hello world, what a lovely day it is today?",
]


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


def check_streaming(tokenizer: Tokenizer, ids: Sequence[int], prompt: int = 0) -> None:
    """Pushes put together are the decoded text; none shows a broken character that the whole does not have."""
    for skip in (True, False):
        whole = tokenizer.decode(ids, skip_special=skip)
        stream = tokenizer.stream(skip_special=skip)
        pushes = [stream.push(i) for i in ids]
        assert "".join(pushes) + stream.flush() == whole
        shown = ""
        for push in pushes:
            shown += push
            assert whole.startswith(shown)
        # After a prompt: the rest of the whole text, from where the prompt's settled text ends.
        settled = "".join(pushes[:prompt])
        stream = tokenizer.stream(ids[:prompt], skip_special=skip)
        assert settled + "".join(stream.push(i) for i in ids[prompt:]) + stream.flush() == whole


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


# Tokenizers made here: one sentencepiece model in all three formats, and a byte-level one.


@cache
def sentencepiece_model() -> bytes:
    import io

    import sentencepiece

    rng = random.Random(7)
    words = sorted({word for sentence in SENTENCES for word in sentence.split()})
    corpus = SENTENCES + [" ".join(rng.choices(words, k=8)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        num_threads=1,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    return model.getvalue()


@cache
def llama2c_file() -> bytes:
    """What llama2.c's exporter writes for the model above."""
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    records: list[tuple[float, bytes]] = []
    for i in range(library.get_piece_size()):
        piece = library.id_to_piece(i)
        text = f"\n{piece}\n" if i in (1, 2) else piece
        records.append((library.get_score(i), text.replace("\u2581", " ").encode("utf-8")))
    body = b"".join(struct.pack("<fI", score, len(text)) + text for score, text in records)
    return struct.pack("<I", max(len(text) for _, text in records)) + body


@cache
def byte_level_file() -> bytes:
    """A small tokenizer.json of the kind Qwen and Llama 3 have, with a BOS in its template."""
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|begin|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(SENTENCES, trainer)
    library.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return library.to_str().encode("utf-8")


KINDS: list[TokenizerKind] = ["sentencepiece", "llama2.c", "tokenizer.json"]


def made_file(kind: TokenizerKind) -> bytes:
    return {"sentencepiece": sentencepiece_model, "llama2.c": llama2c_file, "tokenizer.json": byte_level_file}[kind]()


def made(kind: TokenizerKind) -> Tokenizer:
    return load_tokenizer(TokenizerData(kind, made_file(kind)), 512)


def random_text(rng: random.Random) -> str:
    alphabet = "".join(SENTENCES) * 3 + FRAGMENTS + "<s></s> \n\t\0"
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(60)))


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


# What a file may say that we do not do.


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


# Damaged files.


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


# Finding the file.


def test_found_beside_the_checkpoint_and_told_by_content(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.bin"
    checkpoint.write_bytes(b"weights")
    assert find_tokenizer(checkpoint, None) is None
    assert find_tokenizer(tmp_path, None) is None
    (tmp_path / "tokenizer.bin").write_bytes(sentencepiece_model())  # names lie
    for place in (checkpoint, tmp_path):
        data = find_tokenizer(place, None)
        assert data == TokenizerData("sentencepiece", sentencepiece_model())
    (tmp_path / "tokenizer.model").write_bytes(llama2c_file())
    assert find_tokenizer(checkpoint, None) == TokenizerData("llama2.c", llama2c_file())
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file())
    assert find_tokenizer(checkpoint, None) == TokenizerData("tokenizer.json", byte_level_file())
    other = tmp_path / "any.name"
    other.write_bytes(llama2c_file())
    assert find_tokenizer(checkpoint, other) == TokenizerData("llama2.c", llama2c_file())
    assert find_tokenizer(checkpoint, tmp_path) == TokenizerData("tokenizer.json", byte_level_file())


def test_config_and_chat_template_come_along(tmp_path: Path) -> None:
    file, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    file.write_bytes(byte_level_file())
    text = json.dumps({"eos_token": "<|im_end|>", "chat_template": "{{ x }}é"})
    config.write_text(text, "utf-8")
    special = {"eos_token": "<|im_end|>"}
    expected = TokenizerData("tokenizer.json", byte_level_file(), text, "{{ x }}é", {}, special)
    assert find_tokenizer(file, None) == expected
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}, {"name": 1}, "x"]
    config.write_text(json.dumps({"chat_template": named}))
    data = find_tokenizer(tmp_path, None)
    assert data is not None
    assert (data.chat_template, data.other_templates) == ("d", {"rag": "r"})
    (tmp_path / "chat_template.jinja").write_text("own file", "utf-8")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")
    data = find_tokenizer(tmp_path, None)
    assert data is not None
    assert (data.chat_template, data.other_templates) == ("own file", {"rag": "r", "tool_use": "tools"})
    config.write_text(json.dumps({"chat_template": "a" * 1_000_001}))
    with pytest.raises(TokenizerError, match="at most 1000000 characters, got 1000001"):
        find_tokenizer(tmp_path, None)
    for bad in (b"{", b"[]", b"\xff{}", b'{"chat_template": "\\ud800"}'):
        config.write_bytes(bad)
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
            find_tokenizer(tmp_path, None)


def test_special_tokens_are_as_templates_call_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file())
    written = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None, "x": "y"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**written, "sep_token": "\ud800", "add_bos_token": True})
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "other", "unk_token": "<unk>"}))
    data = find_tokenizer(tmp_path, None)
    assert data is not None
    assert data.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"special_tokens_map\.json: expected a JSON object, got list"):
        find_tokenizer(tmp_path, None)


def test_what_is_not_a_tokenizer(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(TokenizerError, match=message) as caught:
            find_tokenizer(tmp_path, path)
        assert "\n" not in str(caught.value)

    refused(tmp_path, "no tokenizer in this folder")
    refused(tmp_path / "nowhere", "No such file")
    refused(tmp_path / "nul\0", "null")
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    refused(empty, "empty file")
    for content in (b"x", b"\x89PNG\r\n\x1a\n" + bytes(90), b"hello world, this is text\n", bytes(3)):
        (tmp_path / "other").write_bytes(content)
        refused(tmp_path / "other", "not a tokenizer")
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: no disk is used
    refused(huge, "too large")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "not a regular file")
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(TokenizerError, match="a folder"):
        find_tokenizer(tmp_path, None)
    (tmp_path / "tokenizer.json").rmdir()
    (tmp_path / "tokenizer.json").symlink_to(tmp_path / "gone")
    with pytest.raises(TokenizerError, match="No such file"):
        find_tokenizer(tmp_path, None)
    if os.geteuid() != 0:
        empty.chmod(0)
        refused(empty, "denied")
