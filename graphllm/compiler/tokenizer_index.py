"""The index of a large tokenizer.json, made once and found again: see ``runtime/tokenizer/excerpt.py``."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from graphllm.compiler.kept import INDEX, kept
from graphllm.errors import GraphLLMError
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import excerpt


def kept_index(data: TokenizerData) -> bytes | None:
    """The index of a tokenizer; None for one that has none, is small, or where nothing can be kept."""
    if data.kind != "tokenizer.json" or len(data.blob) < excerpt.INDEXED_FROM:
        return None
    sources = [Path(excerpt.__file__).read_text(encoding="utf-8"), hashlib.sha256(data.blob).hexdigest()]

    def make(scratch: Path) -> Path:
        out = scratch / "tokenizer"
        out.write_bytes(excerpt.index_of(data.blob))
        return out

    with suppress(GraphLLMError):
        return kept(sources, INDEX, make).read_bytes() or None
    return None
