"""The vocabulary: sentencepiece BPE with byte fallback, trained on stories of the corpus."""

from __future__ import annotations

from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from .corpus import BOS, EOS, documents

SIZE = 1024
STORIES = 20_000


def train_vocabulary(path: Path, seed: str) -> None:
    """Write a sentencepiece model of ``SIZE`` pieces, the bytes among them, so that any text can be encoded."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=documents(seed, STORIES),
            model_writer=file,
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
    partial.replace(path)


def load_vocabulary(path: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(path))
