"""How a tokenizer.json's token strings become bytes, read from the decoder it names.

The library decodes whole sequences only, so this restates its rule for one token. Decoders that do not work token by
token, or that no Llama or Qwen model has, are refused by name.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final, cast

from graphllm.errors import TokenizerError

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WHERE = "tokenizer.json"
_MAX_GROWTH = 64


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 stands for itself, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_LEVEL: Final = _byte_level_alphabet()


@dataclass(frozen=True, slots=True)
class DecodeRule:
    """How a token's string becomes bytes, and how many leading spaces a text loses."""

    byte_level: bool = False  # every character stands for a byte
    byte_fallback: bool = False  # <0xE4> is the byte E4
    replace: tuple[tuple[str, str], ...] = ()
    leading_spaces: int = 0

    def bytes_of(self, token: str) -> bytes:
        if self.byte_level:
            try:
                return bytes(BYTE_LEVEL[char] for char in token)
            except KeyError:  # an added token, which is written as it is
                return token.encode("utf-8")
        for old, new in self.replace:
            token = token.replace(old, new)
        if self.byte_fallback and (match := _BYTE_PIECE.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return token.encode("utf-8")


def read_decode_rule(decoder: object) -> DecodeRule:
    """The rule of a library decoder, whose only window is its serialised form."""
    if decoder is None:
        raise _unsupported("none")
    steps = _steps(decoder, "decoders")
    check_growth(decoder, "decoders")
    replace: list[tuple[str, str]] = []
    byte_fallback = fused = False
    leading_spaces = 0
    for step in steps:
        kind = str(step["type"])
        if kind == "ByteLevel" and len(steps) == 1:
            return DecodeRule(byte_level=True)
        pattern = step.get("pattern")
        if kind == "Replace" and isinstance(pattern, dict) and "String" in pattern and not fused:
            replace.append((str(cast("dict[str, object]", pattern)["String"]), str(step["content"])))
        elif kind == "Metaspace" and len(steps) == 1:
            replace.append((str(step["replacement"]), " "))
            leading_spaces = 0 if step.get("prepend_scheme") == "never" else 1
        elif kind == "ByteFallback" and not fused:
            byte_fallback = True
        elif kind == "Fuse":
            fused = True
        elif kind == "Strip" and fused and step["content"] == " " and step["stop"] == 0:
            leading_spaces += cast("int", step["start"])
        else:
            raise _unsupported(json.dumps(step))
    return DecodeRule(False, byte_fallback, tuple(replace), leading_spaces)


def _unsupported(decoder: str) -> TokenizerError:
    return TokenizerError(
        f"{_WHERE}: unsupported decoder; expected ByteLevel, Metaspace or "
        f"Replace, ByteFallback, Fuse, Strip of leading spaces, got {decoder[:100]}"
    )


def check_growth(component: object, children: str = "normalizers") -> None:
    """Refuses a chain of replacements that could make a short text huge: "a" by "aa", fifty times over."""
    growth, added = 1, 0
    for step in _steps(component, children) if component is not None else []:
        if step["type"] == "Replace":
            pattern = cast("dict[str, str]", step["pattern"])
            content = len(str(step["content"]))
            # An empty pattern and a regular expression may match between any two characters.
            growth *= max(1, -(-content // len(pattern["String"]))) if pattern.get("String") else 1 + content
        elif step["type"] == "Prepend":
            added += len(str(step["prepend"]))
    if added > _MAX_GROWTH:
        raise TokenizerError(f"{_WHERE}: {children}; expected at most {_MAX_GROWTH} characters in front, got {added}")
    if growth > _MAX_GROWTH:
        raise TokenizerError(f"{_WHERE}: {children}; expected texts to grow at most {_MAX_GROWTH} times, got {growth}")


def check_template(processor: object) -> None:
    """Refuses a template of special tokens that it does not define, where the library panics, or of very many."""
    for step in _steps(processor, "processors") if processor is not None else []:
        if step["type"] != "TemplateProcessing":
            continue
        known = cast("dict[str, dict[str, list[int]]]", step["special_tokens"])
        length = 0
        for piece in cast("list[dict[str, dict[str, str]]]", step["single"]):
            if (token := piece.get("SpecialToken")) is None:
                continue
            if token["id"] not in known:
                raise TokenizerError(f"{_WHERE}: post_processor: {token['id'][:40]!r} is none of its special tokens")
            length += len(known[token["id"]]["ids"])
        if length > _MAX_GROWTH:
            raise TokenizerError(
                f"{_WHERE}: post_processor: {length} special tokens about a text; expected at most {_MAX_GROWTH}"
            )


def _steps(component: object, children: str) -> list[dict[str, object]]:
    """The steps of a library object, nested sequences laid flat; its serialised form is the only window into it."""
    waiting = [cast("dict[str, object]", json.loads(cast("bytes", component.__getstate__())))]
    steps: list[dict[str, object]] = []
    while waiting:
        step = waiting.pop()
        if step["type"] == "Sequence":
            waiting += reversed(cast("list[dict[str, object]]", step[children]))
        else:
            steps.append(step)
    return steps
