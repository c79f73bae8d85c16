"""The three things tokenizer_config.json decides: which tokens begin and end a text, and whether to add the first."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import cast

from graphllm.errors import TokenizerError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the file says; None where it says nothing. A token that is ``null`` in the file is ``""``: there is none."""

    bos_token: str | None = None
    eos_token: str | None = None
    add_bos: bool | None = None


def read_settings(config: str) -> Settings:
    """The settings in the text of tokenizer_config.json, which may be empty."""
    if not config:
        return Settings()
    try:
        document = json.loads(config)
    except (ValueError, RecursionError) as e:
        raise TokenizerError(f"tokenizer_config.json: not JSON; {e}") from None
    if not isinstance(document, dict):
        raise TokenizerError(f"tokenizer_config.json: expected a JSON object, got {type(document).__name__}")
    fields = cast("dict[str, object]", document)
    add_bos = fields.get("add_bos_token")
    if not isinstance(add_bos, bool):
        add_bos = None
    return Settings(_token(fields, "bos_token"), _token(fields, "eos_token"), add_bos)


def _token(fields: dict[str, object], name: str) -> str | None:
    if name not in fields:
        return None
    value = fields[name]
    if isinstance(value, dict):  # a serialised AddedToken
        value = cast("dict[str, object]", value).get("content")
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TokenizerError(f"tokenizer_config.json: {name}; expected a token, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise TokenizerError(f"tokenizer_config.json: {name}; not valid Unicode, got {value!r:.40}") from None
    return value
