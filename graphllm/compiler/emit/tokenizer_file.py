"""``tokenizer.bin`` of an emitted program: the bytes of every id, and how text becomes ids where C++ can do that.

What the emitted encoder does is exactly sentencepiece's BPE by scores, or a tokenizer.json's BPE by merges with the
normalisers and patterns that the Llama and Qwen families have. A tokenizer that asks for anything else is not
approximated: the program then takes ids, and says why. Layout, little-endian, a text being u32 size | bytes:

    "GLTK" | u32 version | u32 kind | u32 leading spaces | ids before | ids after | tokens | what the kind needs
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from graphllm.compiler.emit.normal_form import compositions, decompositions, mark_classes
from graphllm.compiler.emit.unicode_ranges import Ranges, letters, numbers, spaces
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import Tokenizer
from graphllm.runtime.tokenizer.decode_rule import BYTE_LEVEL
from graphllm.runtime.tokenizer.sentencepiece_model import SentencePieceTokenizer
from graphllm.runtime.tokenizer.tokenizer_json import JsonTokenizer

_VERSION: Final = 2
_DECODES, _SCORES, _BYTES, _CHARACTERS = range(4)
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS: Final = {_GPT2: (True, 1), _WORDS % "{1,3}": (False, 3), _WORDS % "": (False, 1)}  # (GPT-2's, digits)


@dataclass(frozen=True, slots=True)
class EmittedTokenizer:
    """The file, and why the program cannot encode text with it: '' where it can."""

    content: bytes
    why_not: str


class _Unsupported(Exception):
    """Why text cannot be encoded, in words."""


def emitted_tokenizer(data: TokenizerData, tokenizer: Tokenizer) -> EmittedTokenizer:
    """The file for a tokenizer; ``data`` is what ``tokenizer`` was loaded from."""
    try:
        if isinstance(tokenizer, SentencePieceTokenizer):
            kind, rest = _SCORES, _scores(tokenizer)
            opening, closing = tokenizer.encode(""), list[int]()
        elif isinstance(tokenizer, JsonTokenizer):
            kind, rest = _merges(data)
            opening, closing = _around(tokenizer)
        else:
            raise _Unsupported(f"{tokenizer.where}: a kind that has no encoder in C++")
        why_not = ""
    except _Unsupported as reason:
        kind, rest, opening, closing, why_not = _DECODES, b"", list[int](), list[int](), str(reason)
    tokens = b"".join(_token(tokenizer, i) for i in range(tokenizer.vocab_size))
    head = b"GLTK" + struct.pack("<III", _VERSION, kind, tokenizer.leading_spaces) + _ids(opening) + _ids(closing)
    return EmittedTokenizer(head + struct.pack("<I", tokenizer.vocab_size) + tokens + rest, why_not)


def _token(tokenizer: Tokenizer, token: int) -> bytes:
    whole, shown = (tokenizer.bytes_of(token, skip_special=skip) for skip in (False, True))
    return struct.pack("<B", bool(whole) and not shown) + _bytes(whole)


# sentencepiece, and llama2.c's tokenizer.bin, which is one


def _scores(tokenizer: SentencePieceTokenizer) -> bytes:
    pieces = tokenizer.scored_pieces()
    if any(p.kind == "unused" or (p.kind == "user defined" and " " in p.text) for p in pieces):
        raise _Unsupported(f"{tokenizer.where}: unused pieces, or spaces in pieces of its own making")
    by_byte = {int(p.text[3:5], 16): p.id for p in pieces if p.kind == "byte"}
    if by_byte and len(by_byte) != 256:
        raise _Unsupported(f"{tokenizer.where}: pieces for {len(by_byte)} bytes; expected all 256 or none")
    unknown = next((p.id for p in pieces if p.kind == "unknown"), 0)
    normal = [p for p in pieces if p.kind in ("normal", "user defined")]
    records = (_text(p.text) + struct.pack("<ifB", p.id, p.score, p.kind != "normal") for p in normal)
    flags = struct.pack("<BBi", tokenizer.leading_spaces > 0, tokenizer.collapses_spaces, unknown)
    return flags + _ids([by_byte[i] for i in sorted(by_byte)]) + struct.pack("<I", len(normal)) + b"".join(records)


# tokenizer.json


def _merges(data: TokenizerData) -> tuple[int, bytes]:
    from tokenizers import Tokenizer as Library

    library = Library.from_buffer(data.blob)
    document = cast("dict[str, Any]", json.loads(library.to_str()))
    model, where = document["model"], "tokenizer.json"
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _Unsupported(f"{where}: a {name}, which the emitted encoder does not know")
    prepended, replaced, composed = _normaliser(document["normalizer"])
    gpt2, digits, byte_level = _pattern(document["pre_tokenizer"])
    vocabulary = cast("dict[str, int]", model["vocab"])
    if byte_level:
        by_byte = {byte: vocabulary.get(char) for char, byte in BYTE_LEVEL.items()}
        whole = {_plain(token): i for token, i in vocabulary.items()} if model.get("ignore_merges") else {}
        whole.pop(None, None)
    else:
        if not model.get("byte_fallback") or model.get("ignore_merges"):
            raise _Unsupported(f"{where}: characters without byte fallback, which the emitted encoder does not know")
        by_byte = {byte: vocabulary.get(f"<0x{byte:02X}>") for byte in range(256)}
        whole = {token.encode(): i for token, i in vocabulary.items() if len(token) == 1}
    unknown = vocabulary.get(model.get("unk_token") or "", -1)
    if None in by_byte.values() and (byte_level or unknown < 0):
        raise _Unsupported(f"{where}: bytes that have no token")
    added = cast("list[dict[str, Any]]", document["added_tokens"])
    if any(a["single_word"] or a["lstrip"] or a["rstrip"] or not a["content"] for a in added):
        raise _Unsupported(f"{where}: added tokens that take spaces or whole words")
    plain = [(a["content"], a["id"]) for a in added if not a["normalized"]]
    normalised = [(_as_normalised(library, a["content"]), a["id"]) for a in added if a["normalized"]]
    merges = [_merge(pair, vocabulary) for pair in model["merges"]]
    parts = [
        _added((name.encode(), i) for name, i in plain),
        _added((name.encode(), i) for name, i in normalised),
        _text(prepended),
        struct.pack("<I", len(replaced)) + b"".join(_text(a) + _text(b) for a, b in replaced),
        _normal_form() if composed else struct.pack("<III", 0, 0, 0),
        struct.pack("<BI", gpt2, digits),
        *(_ranges(r() if byte_level else ()) for r in (letters, numbers, spaces)),
        struct.pack("<iB", unknown, bool(model.get("fuse_unk"))),
        _ids([-1 if (i := by_byte[byte]) is None else i for byte in range(256)]),
        _added((token, i) for token, i in whole.items() if token is not None),
        struct.pack("<I", len(merges)) + b"".join(struct.pack("<iii", *m) for m in merges),
    ]
    return _BYTES if byte_level else _CHARACTERS, b"".join(parts)


def _normal_form() -> bytes:
    """Classes of marks, what characters are apart, and which two are one together."""
    classes, parts, pairs = mark_classes(), decompositions(), compositions()
    return b"".join(
        [
            struct.pack("<I", len(classes)),
            *(struct.pack("<II", point, number) for point, number in classes.items()),
            struct.pack("<I", len(parts)),
            *(struct.pack(f"<II{len(p)}I", point, len(p), *p) for point, p in parts.items()),
            struct.pack("<I", len(pairs)),
            *(struct.pack("<III", *two, both) for two, both in pairs.items()),
        ]
    )


def _normaliser(component: Any) -> tuple[str, list[tuple[str, str]], bool]:
    """(what is put in front, what is replaced by what, whether text is composed)."""
    steps: list[Any] = [] if component is None else component.get("normalizers", [component])
    prepended, replaced, composed = "", list[tuple[str, str]](), False
    for i, step in enumerate(steps):
        if step["type"] == "Prepend" and i == 0:
            prepended = str(step["prepend"])
        elif step["type"] == "Replace" and step["pattern"].get("String"):
            replaced.append((step["pattern"]["String"], step["content"]))
        elif step["type"] == "NFC" and len(steps) == 1:
            composed = True
        else:
            raise _Unsupported(
                f"tokenizer.json: the normaliser {step['type']}, which the emitted encoder does not know"
            )
    return prepended, replaced, composed


def _pattern(component: Any) -> tuple[bool, int, bool]:
    """(whether words are cut as GPT-2 does, digits that stand together, whether symbols are bytes)."""
    if component is None:
        return False, 1, False
    steps: list[Any] = component.get("pretokenizers", [component])
    last = steps[-1]
    if last["type"] == "ByteLevel" and not last["add_prefix_space"]:
        if len(steps) == 1 and last.get("use_regex", True):
            return *_PATTERNS[_GPT2], True
        split = steps[0]
        plain = split["type"] == "Split" and split["behavior"] == "Isolated" and not split["invert"]
        pattern = split["pattern"].get("Regex") if plain and len(steps) == 2 and not last.get("use_regex", True) else ""
        if pattern in _PATTERNS:
            return *_PATTERNS[pattern], True
    raise _Unsupported("tokenizer.json: it cuts words in a way that the emitted encoder does not know")


def _around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that come before and after those of every prompt."""
    bare, whole = tokenizer.encode("a", bos=False), tokenizer.encode("a")
    for at in range(len(whole) - len(bare) + 1):
        if whole[at : at + len(bare)] == bare:
            return whole[:at], whole[at + len(bare) :]
    raise _Unsupported("tokenizer.json: what it adds to a prompt changes the prompt itself")


def _plain(token: str) -> bytes | None:
    """The bytes that a byte-level token's characters stand for."""
    return bytes(BYTE_LEVEL[c] for c in token) if all(c in BYTE_LEVEL for c in token) else None


def _as_normalised(library: Any, name: str) -> str:
    return library.normalizer.normalize_str(name) if library.normalizer is not None else name


def _merge(pair: Any, vocabulary: Mapping[str, int]) -> tuple[int, int, int]:
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return vocabulary[left], vocabulary[right], vocabulary[left + right]


# Bytes


def _bytes(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _text(text: str) -> bytes:
    return _bytes(text.encode("utf-8"))


def _ids(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<I{len(ids)}i", len(ids), *ids)


def _added(tokens: Iterable[tuple[bytes, int]]) -> bytes:
    records = [_bytes(name) + struct.pack("<i", i) for name, i in tokens]
    return struct.pack("<I", len(records)) + b"".join(records)


def _ranges(ranges: Ranges) -> bytes:
    return struct.pack("<I", len(ranges)) + b"".join(struct.pack("<II", *r) for r in ranges)
