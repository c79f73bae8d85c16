"""tokenizer.model through the `sentencepiece` library: BPE models without a character map, as the Llama family has.

Unigram models and character maps are refused by name: no model we compile uses them, so nothing would test them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer import protobuf
from graphllm.runtime.tokenizer.settings import Settings
from graphllm.runtime.tokenizer.tokenizer import Tokenizer, one_line

_SPACE = "\u2581"  # sentencepiece's visible space
PieceKind = Literal["normal", "unknown", "control", "user defined", "unused", "byte"]
_PIECE_KINDS: Final[dict[int, PieceKind]] = {
    1: "normal",
    2: "unknown",
    3: "control",
    4: "user defined",
    5: "unused",
    6: "byte",
}
_MOST_FIELDS = 1 << 20
_MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}


@dataclass(frozen=True, slots=True)
class ScoredPiece:
    """An entry of a sentencepiece model; spaces of its text are visible ones."""

    id: int
    text: str
    score: float
    kind: PieceKind


class SentencePieceTokenizer(Tokenizer):
    """A serialised sentencepiece ModelProto; ``where`` names the file it came from in messages."""

    def __init__(self, where: str, proto: bytes, settings: Settings) -> None:
        import sentencepiece

        super().__init__(where)
        self.leading_spaces, self.collapses_spaces = _check(where, proto)
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

    def scored_pieces(self) -> list[ScoredPiece]:
        """The whole model, for those who encode without the library."""
        proto = self._library.serialized_model_proto()
        entries = [dict(protobuf.fields(v)) for n, v in protobuf.fields(proto) if n == 1 and isinstance(v, bytes)]
        pieces: list[ScoredPiece] = []
        for i, entry in enumerate(entries):
            score, kind = entry.get(2, bytes(4)), entry.get(3, 1)
            assert isinstance(score, bytes)
            assert isinstance(kind, int)
            pieces.append(ScoredPiece(i, self._pieces[i], struct.unpack("<f", score)[0], _PIECE_KINDS[kind]))
        return pieces

    def _id_of(self, token: str | None, default: int) -> int | None:
        if token is None:
            return default if default >= 0 else None
        return self.special_names.get(token)

    @cached_property
    def special_names(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self._pieces) if self._is_special(i)}

    def _is_special(self, token: int) -> bool:
        return self._library.is_control(token) or self._library.is_unknown(token)

    def _encode(self, text: str, *, add_special: bool, special: bool | None) -> list[int]:
        ids: list[int] = []
        if add_special and self._add_bos and self.bos_id is not None:
            ids.append(self.bos_id)
        for part in self._special_pattern.split(text) if special else [text]:
            known = self.special_names.get(part) if special else None
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


def _check(where: str, proto: bytes) -> tuple[int, bool]:
    """Refuses what Llama models do not use; how many spaces the encoder puts in front, and whether it drops others."""
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for i, (number, value) in enumerate(protobuf.fields(proto)):
            if i > _MOST_FIELDS:
                raise TokenizerError(f"{where}: more than {_MOST_FIELDS} pieces; expected a vocabulary")
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
    return (1 if normalizer.get(3, 1) else 0), bool(normalizer.get(4, 1))
