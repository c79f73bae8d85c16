"""The vocabulary: sentencepiece BPE with byte fallback, trained on stories of the corpus."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from .corpus import BOS, EOS, documents

SIZE = 1024
STORIES = 20_000


def train_vocabulary(path: Path, seed: str) -> None:
    """Write a sentencepiece model of ``SIZE`` pieces, the bytes among them, so that any text can be encoded."""
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=documents(seed, STORIES),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=["\n"],  # between a request and its tale
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        num_threads=1,  # the same vocabulary from the same seed
        minloglevel=2,
    )
    partial = path.with_suffix(".partial")
    partial.write_bytes(bytes_first(model.getvalue()))
    partial.replace(path)


def bytes_first(model: bytes) -> bytes:
    """A sentencepiece model with its 256 bytes at ids 3 to 258, where llama2.c looks for them.

    The trainer puts symbols of ours before them. A model is a protobuf message (``sentencepiece_model.proto``): pieces
    are its fields 1, in the order of their ids, and 6 as field 3 of a piece says that it is a byte.
    """
    pieces: list[bytes] = []
    rest: list[bytes] = []
    at = 0
    while at < len(model):
        tag, start = _varint(model, at)
        length, body = _varint(model, start)
        assert tag & 7 == 2, "every field of a sentencepiece model is a message"
        (pieces if tag >> 3 == 1 else rest).append(model[at : body + length])
        at = body + length
    byte = [piece for piece in pieces if piece.endswith(b"\x18\x06")]
    assert len(byte) == 256
    others = [piece for piece in pieces[3:] if not piece.endswith(b"\x18\x06")]
    return b"".join([*pieces[:3], *byte, *others, *rest])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends) of a protobuf integer."""
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def load_vocabulary(path: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(path))
