"""tokenizer.model through the `sentencepiece` library: BPE models without a character map, as the Llama family has.

Unigram models and character maps are refused by name: no model we compile uses them, so nothing would test them.
"""

from __future__ import annotations

import re
from functools import cached_property

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer import protobuf
from graphllm.runtime.tokenizer.settings import Settings
from graphllm.runtime.tokenizer.tokenizer import Tokenizer, one_line

_SPACE = "\u2581"  # sentencepiece's visible space
_MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}


class SentencePieceTokenizer(Tokenizer):
    """A serialised sentencepiece ModelProto; ``where`` names the file it came from in messages."""

    def __init__(self, where: str, proto: bytes, settings: Settings) -> None:
        import sentencepiece

        super().__init__(where)
        self.leading_spaces = _check(where, proto)
        sentencepiece.set_min_log_level(3)  # what it logs, it also raises
        try:
            library = sentencepiece.SentencePieceProcessor(model_proto=proto)
            size = library.get_piece_size()
            pieces = library.id_to_piece(list(range(size)))
        except (RuntimeError, UnicodeDecodeError) as e:
            raise TokenizerError(f"{where}: cannot be read; {one_line(e)}") from None
        self._library = library
        self._pieces: list[str] = pieces
        self.vocab_size = size
        self._add_bos = settings.add_bos is not False
        self.bos_id = self._id_of(settings.bos_token, library.bos_id())
        eos = self._id_of(settings.eos_token, library.eos_id())
        self.eos_ids = () if eos is None else (eos,)

    def _id_of(self, token: str | None, default: int) -> int | None:
        if token is None:
            return default if default >= 0 else None
        return self._special_names.get(token)

    @cached_property
    def _special_names(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self._pieces) if self._is_special(i)}

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._special_names, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")

    def _is_special(self, token: int) -> bool:
        return self._library.is_control(token) or self._library.is_unknown(token)

    def _encode(self, text: str, *, add_special: bool, special: bool | None) -> list[int]:
        ids: list[int] = []
        if add_special and self._add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        for part in self._special_pattern.split(text) if special else [text]:
            known = self._special_names.get(part) if special else None
            if known is not None:
                ids.append(known)
            elif part:
                ids += self._library.encode(part, out_type=int)
        return ids

    def _look_up(self, token: int) -> tuple[bytes, bool]:
        piece = self._pieces[token]
        if self._library.is_byte(token):
            return bytes([int(piece[3:5], 16)]), False
        return piece.replace(_SPACE, " ").encode("utf-8"), self._is_special(token)


def _check(where: str, proto: bytes) -> int:
    """Refuses what Llama models do not use; returns how many spaces the encoder puts in front of a text."""
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in protobuf.fields(proto):
            if number == 2 and isinstance(value, bytes):
                trainer |= dict(protobuf.fields(value))
            elif number == 3 and isinstance(value, bytes):
                normalizer |= dict(protobuf.fields(value))
    except ValueError as e:
        raise TokenizerError(f"{where}: damaged, not a sentencepiece model; {e}") from None
    if not (trainer and normalizer):
        raise TokenizerError(f"{where}: truncated; expected pieces, trainer and normaliser of a sentencepiece model")
    model_type = trainer.get(3, 1)
    if model_type != 2:
        name = _MODEL_TYPES.get(model_type, model_type) if isinstance(model_type, int) else "bytes"
        raise TokenizerError(f"{where}: unsupported sentencepiece model; expected BPE, got {name}")
    if normalizer.get(2):
        raise TokenizerError(
            f"{where}: unsupported sentencepiece normaliser; expected no character map, got one ({normalizer.get(1)!r})"
        )
    if trainer.get(24):
        raise TokenizerError(f"{where}: unsupported sentencepiece model; expected spaces before words, got them after")
    return 1 if normalizer.get(3, 1) else 0
