"""Finds the tokenizer of a checkpoint and tells, by content, which format it is.

Names lie: ``tokenizer.model`` is a sentencepiece protobuf for Llama 2 and a list of base64 lines for Llama 3. Nothing
is interpreted here beyond that: the file goes into the plan as it is, and the runtime checks it when it loads it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from graphllm.errors import TokenizerError
from graphllm.frontends.gguf_file import MAGIC, read_gguf
from graphllm.frontends.gguf_tokenizer import gguf_tokenizer
from graphllm.frontends.tokenizer_texts import MAX_BYTES, read_bytes, read_texts
from graphllm.plan.tokenizer_data import TokenizerData, TokenizerKind

NAMES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin")  # the order says which one wins
__all__ = ["MAX_BYTES", "NAMES", "find_tokenizer"]

_LONGEST_PIECE = 65_536  # llama2.c's own files say 7 and 27
_TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")


def find_tokenizer(checkpoint: Path, explicit: Path | None) -> TokenizerData | None:
    """The tokenizer named explicitly (a file, or a folder with one in it), else the one beside the checkpoint, if any.

    Raises:
        TokenizerError: a file that is there, or was named, cannot be read or is not a tokenizer.
    """
    place = checkpoint if explicit is None else explicit
    if _is_folder(place):
        file = _first_in(place)
        if file is None and explicit is not None:
            raise TokenizerError(f"{explicit}: no tokenizer in this folder; expected one of {', '.join(NAMES)}")
    else:
        file = explicit if explicit is not None else _first_in(checkpoint.parent)
    if file is None:
        return None
    if _is_gguf(file):
        return gguf_tokenizer(read_gguf(file))[0]
    blob = read_bytes(file)
    if not blob:
        raise TokenizerError(f"{file}: empty file; expected a tokenizer")
    kind = _kind(file, blob)
    texts = read_texts(file)
    return TokenizerData(kind, blob, texts.config, texts.chat_template, texts.other_templates, texts.special_tokens)


def _is_gguf(path: Path) -> bool:
    """Whether a regular file begins as GGUF does. What cannot be read is not; its reader will say why."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except (OSError, ValueError):
        return False


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError) as e:
        raise TokenizerError(f"{path}: cannot be read; {e}") from None


def _first_in(folder: Path) -> Path | None:
    # A dangling link counts as found, so that it is reported and not silently skipped.
    return next((folder / name for name in NAMES if os.path.lexists(folder / name)), None)


def _kind(path: Path, blob: bytes) -> TokenizerKind:
    """The formats exclude each other in their first bytes: ``{``; base64 and a rank; 0A, a length, 0A; a small u32."""
    if blob.lstrip()[:1] == b"{":
        return "tokenizer.json"
    if _TIKTOKEN_LINE.match(blob):
        return "tiktoken"
    if len(blob) > 2 and blob[0] == 0x0A and blob[2] == 0x0A:  # protobuf: field 1 = a piece, whose field 1 = its text
        return "sentencepiece"
    longest, first = int.from_bytes(blob[:4], "little"), int.from_bytes(blob[8:12], "little")
    if len(blob) >= 12 and first <= longest <= _LONGEST_PIECE:
        return "llama2.c"
    raise TokenizerError(
        f"{path}: not a tokenizer; expected tokenizer.json, a sentencepiece model or a llama2.c tokenizer.bin, "
        f"got a file that begins with {blob[:8].hex(' ')}"
    )
