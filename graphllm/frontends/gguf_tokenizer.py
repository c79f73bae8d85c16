"""The tokenizer in a GGUF file's metadata, carried into the plan as JSON; only the runtime interprets it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from graphllm.errors import TokenizerError
from graphllm.frontends.gguf_file import GgufFile
from graphllm.frontends.tokenizer_texts import MAX_TEMPLATE
from graphllm.plan.tokenizer_data import TokenizerData

PREFIX = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
KEPT = ("model", "pre", "tokens", "scores", "token_type", "merges", "add_bos_token", "add_space_prefix")
IDS = ("bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id", "unknown_token_id")
NONE = ("no_vocab", "none", "")
MAX_JSON = 100_000_000  # as of a tokenizer's file


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids that begin and end texts."""

    bos: int | None
    eos: tuple[int, ...]


def gguf_tokenizer(file: GgufFile) -> tuple[TokenizerData | None, SpecialIds]:
    """The tokenizer, None where the file has none, and its special ids. Raises TokenizerError for damaged metadata."""
    where = f"{file.file.path}: {PREFIX}"
    said = {key.removeprefix(PREFIX): value for key, value in file.metadata.items() if key.startswith(PREFIX)}
    ids = {name: _id(where, name, said[name]) for name in IDS if name in said}
    special = SpecialIds(
        ids.get("bos_token_id"),
        tuple(dict.fromkeys(ids[name] for name in ("eos_token_id", "eot_token_id", "eom_token_id") if name in ids)),
    )
    if said.get("model", "") in NONE:
        return None, special
    tokens = cast("list[str]", said.get("tokens"))
    if not isinstance(said.get("tokens"), list) or not tokens:
        raise TokenizerError(
            f"{where}tokens is absent or empty; expected the tokens of a {said['model']!r:.40} vocabulary"
        )
    document: dict[str, Any] = {name: _plain(said[name]) for name in KEPT if name in said} | ids
    blob = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=True).encode()
    if len(blob) > MAX_JSON:
        raise TokenizerError(f"{where}* has {len(blob)} bytes; expected at most {MAX_JSON}")
    templates = {
        key.removeprefix(TEMPLATE).removeprefix("."): value
        for key, value in file.metadata.items()
        if key.startswith(TEMPLATE)
    }
    for name, template in templates.items():
        if not isinstance(template, str) or len(template) > MAX_TEMPLATE:
            raise TokenizerError(
                f"{file.file.path}: chat template {name or 'default'!r:.60}; "
                f"expected text of at most {MAX_TEMPLATE} characters"
            )
    names = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id"}
    written: dict[str, str] = {}
    for name, key in names.items():
        if key in ids and ids[key] < len(tokens):
            written[name] = tokens[ids[key]]
    return TokenizerData("gguf", blob, "", templates.pop("", ""), templates, written), special


def _id(where: str, name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**32:
        raise TokenizerError(f"{where}{name} is {value!r:.40}; expected a token id")
    return value


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
