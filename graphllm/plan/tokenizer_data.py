"""A tokenizer as a plan carries it: the file it came from, byte for byte, and the texts that lie beside it.

Carrying the raw file keeps a plan exact (nothing is converted at compile time) and lets the compiler stay ignorant of
how text becomes ids; only the runtime interprets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# "tiktoken": Llama 3's lines of base64. "gguf": a GGUF file's own tokenizer metadata, as a JSON object.
TokenizerKind = Literal["tokenizer.json", "sentencepiece", "llama2.c", "tiktoken", "gguf"]


@dataclass(frozen=True, slots=True)
class TokenizerData:
    """One tokenizer, not interpreted yet."""

    kind: TokenizerKind
    blob: bytes
    config: str = ""  # the text of tokenizer_config.json, "" when there is none
    chat_template: str = ""  # Jinja source, "" when the model has none
    other_templates: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)  # name -> Jinja source
    # What templates call the special tokens, bos_token and the like, and how those are written. What is missing here,
    # the runtime takes from the tokenizer itself.
    special_tokens: Mapping[str, str] = field(default_factory=dict[str, str], hash=False)
