"""A GGUF file's vocabulary, rewritten in memory as the file of the library that encodes it.

``llama`` vocabularies are sentencepiece's and become a sentencepiece model; ``gpt2`` vocabularies are byte-level BPE
and become a tokenizer.json. GGUF names the rule that cuts a text into words instead of stating it; those of Llama and
Qwen models are known here, and others are refused by name.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any, cast

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer import protobuf
from graphllm.runtime.tokenizer.settings import Settings
from graphllm.runtime.tokenizer.tokenizer import END_NAMES, Tokenizer

WHERE = "GGUF tokenizer"
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # token types, sentencepiece's numbers

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, slots=True)
class _Cut:
    """How a named pre-tokenizer cuts a text, and whether BOS goes in front where the file does not say."""

    patterns: tuple[str, ...]
    whole_words: bool = False  # a word that is a token is that token, whatever the merges say
    nfc: bool = False
    bos: bool = False


_LLAMA3_CUT = _Cut((_LLAMA3,), whole_words=True, bos=True)
_CUTS = {
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3"), _LLAMA3_CUT),
    "qwen2": _Cut((_QWEN2,), nfc=True),
    "gpt-2": _Cut((_GPT2,)),
    "smollm": _Cut((r"\p{N}", _GPT2)),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The metadata, checked."""

    model: str
    cut: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    ids: dict[str, int]  # bos_token_id and the like
    add_bos: bool | None
    add_space: bool

    def named(self, name: str) -> str | None:
        """The token of a special id: "" where the file names none."""
        token = self.ids.get(name)
        return self.tokens[token] if token is not None and token < len(self.tokens) else ""

    @property
    def settings(self) -> Settings:
        return Settings(self.named("bos_token_id"), self.named("eos_token_id"), self.add_bos)


def read_vocabulary(blob: bytes) -> Vocabulary:
    """The vocabulary that a frontend put into a plan. TokenizerError where it is damaged."""
    try:
        document: Any = json.loads(blob)
    except (ValueError, RecursionError) as e:
        raise TokenizerError(f"{WHERE}: not JSON; {e}") from None
    if not isinstance(document, dict):
        raise TokenizerError(f"{WHERE}: expected an object, got {type(document).__name__}")
    said = cast("dict[str, Any]", document)
    tokens = _list(said, "tokens", str)
    types = _list(said, "token_type", int) or [NORMAL] * len(tokens)
    scores = _list(said, "scores", float) or [0.0] * len(tokens)
    for name, values in (("token_type", types), ("scores", scores)):
        if len(values) != len(tokens):
            raise TokenizerError(
                f"{WHERE}: {name} has {len(values)} entries; expected {len(tokens)}, one for each token"
            )
    if not all(math.isfinite(score) for score in scores):
        raise TokenizerError(f"{WHERE}: scores hold NaN or infinity; expected finite numbers")
    ids = {name: value for name, value in said.items() if name.endswith("_token_id") and type(value) is int}
    flags = {name: said.get(name) for name in ("add_bos_token", "add_space_prefix")}
    add_bos = flags["add_bos_token"] if isinstance(flags["add_bos_token"], bool) else None
    add_space = flags["add_space_prefix"] is not False
    model, cut = (str(said.get(name, ""))[:60] for name in ("model", "pre"))
    return Vocabulary(model, cut, tokens, types, scores, _list(said, "merges", str), ids, add_bos, add_space)


def from_gguf(blob: bytes) -> Tokenizer:
    """The tokenizer of a vocabulary, by the library of its kind."""
    v = read_vocabulary(blob)
    tokenizer: Tokenizer
    if v.model == "llama":
        from graphllm.runtime.tokenizer.sentencepiece_model import SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer(WHERE, to_sentencepiece(v), v.settings)
    elif v.model == "gpt2":
        from graphllm.runtime.tokenizer.tokenizer_json import JsonTokenizer

        tokenizer = JsonTokenizer(to_tokenizer_json(v), v.settings, WHERE)
    else:
        raise TokenizerError(f"{WHERE}: vocabulary {v.model!r} is not supported; expected llama (SPM) or gpt2 (BPE)")
    ends = [i for i, kind in enumerate(v.types) if kind == CONTROL and v.tokens[i] in END_NAMES]
    named = [v.ids[name] for name in ("eos_token_id", "eot_token_id", "eom_token_id") if name in v.ids]
    tokenizer.eos_ids = tuple(dict.fromkeys(i for i in (*named, *ends) if i < tokenizer.vocab_size))
    return tokenizer


def _list(said: dict[str, Any], name: str, kind: type) -> list[Any]:
    values = said.get(name, [])
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(values, list) or not all(type(value) in kinds for value in cast("list[Any]", values)):
        raise TokenizerError(f"{WHERE}: {name}; expected a list of {kind.__name__}")
    return cast("list[Any]", values)


def to_sentencepiece(v: Vocabulary) -> bytes:
    """The sentencepiece ModelProto of a ``llama`` vocabulary."""
    proto = bytearray()
    for text, score, kind in zip(v.tokens, v.scores, v.types, strict=True):
        entry = protobuf.bytes_field(1, text.encode("utf-8", "surrogatepass"))
        entry += protobuf.fixed32_field(2, struct.pack("<f", score)) + protobuf.varint_field(3, kind)
        proto += protobuf.bytes_field(1, entry)
    unknown = v.ids.get("unknown_token_id", v.types.index(UNKNOWN) if UNKNOWN in v.types else -1)
    trainer = protobuf.varint_field(3, 2) + protobuf.varint_field(4, len(v.tokens))
    trainer += protobuf.varint_field(35, int(BYTE in v.types))
    ends = (unknown, v.ids.get("bos_token_id", -1), v.ids.get("eos_token_id", -1))
    for field, name, token in zip((40, 41, 42), (45, 46, 47), ends, strict=True):
        trainer += protobuf.varint_field(field, token)
        if 0 <= token < len(v.tokens):
            trainer += protobuf.bytes_field(name, v.tokens[token].encode("utf-8", "surrogatepass"))
    trainer += protobuf.varint_field(43, -1)
    normalizer = protobuf.bytes_field(1, b"identity") + protobuf.varint_field(3, int(v.add_space))
    normalizer += protobuf.varint_field(4, 0) + protobuf.varint_field(5, 1)
    return bytes(proto) + protobuf.bytes_field(2, trainer) + protobuf.bytes_field(3, normalizer)


def to_tokenizer_json(v: Vocabulary) -> bytes:
    """The tokenizer.json of a ``gpt2`` vocabulary."""
    cut = _CUTS.get(v.cut)
    if cut is None:
        raise TokenizerError(f"{WHERE}: pre-tokenizer {v.cut!r} is not supported; expected one of {', '.join(_CUTS)}")
    added = [i for i, kind in enumerate(v.types) if kind in (CONTROL, USER)]
    kept = [i for i, kind in enumerate(v.types) if kind not in (UNUSED, CONTROL, USER)]
    # The library numbers added tokens from the end of the vocabulary. Where that would give other ids they are ordinary
    # entries too, whose names no text is cut into.
    if added and (added != list(range(added[0], added[0] + len(added))) or kept != list(range(added[0]))):
        kept = [i for i, kind in enumerate(v.types) if kind != UNUSED]
    vocabulary = {v.tokens[i]: i for i in kept}
    if len(vocabulary) != len(kept):
        raise TokenizerError(f"{WHERE}: {len(kept) - len(vocabulary)} tokens are there twice; expected each once")
    bos = v.named("bos_token_id")
    post: dict[str, Any] | None = None
    if bos and (v.add_bos if v.add_bos is not None else cut.bos):
        first = {"SpecialToken": {"id": bos, "type_id": 0}}
        text = {"Sequence": {"id": "A", "type_id": 0}}
        post = {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {bos: {"id": bos, "ids": [v.ids["bos_token_id"]], "tokens": [bos]}},
        }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in cut.patterns
    ]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": v.tokens[i],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": v.types[i] == CONTROL,
            }
            for i in added
        ],
        "normalizer": {"type": "NFC"} if cut.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, level]},
        "post_processor": post,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut.whole_words,
            "vocab": vocabulary,
            "merges": v.merges,
        },
    }
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
