"""Tokenizers made here: one sentencepiece model in all three formats, and a byte-level one; and what any must do."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from functools import cache

from graphllm.plan.tokenizer_data import TokenizerData, TokenizerKind
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer

# Every split of these among byte tokens is a prefix that must not be shown.
FRAGMENTS = "é你好👩‍👩‍👧‍👦🏳️‍🌈 ½ \U0010ffff"
SENTENCES = [
    "Once upon a time there was a little girl named Lily.",
    "The cat sat on the mat, and the dog ran to the park.",
    "  two  spaces, tabs\tand\nlines; numbers 12345 67890!",
    "She said: hello world, what a lovely day it is today?",
]


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
