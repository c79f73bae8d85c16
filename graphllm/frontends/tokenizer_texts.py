"""The texts beside a tokenizer: its config, its chat templates, and how its special tokens are written.

Publishers put templates in three places: a string in tokenizer_config.json, a list of named ones there, or files of
their own (chat_template.jinja and additional_chat_templates/NAME.jinja), which win. Nothing is interpreted here.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from graphllm.errors import TokenizerError

MAX_BYTES = 100_000_000  # the largest tokenizers in use (256k ids) are about 35 MB
MAX_TEMPLATE = 1_000_000  # characters; published ones have up to 30 thousand
MAX_TEMPLATES = 64

_CONFIG, _MAP = "tokenizer_config.json", "special_tokens_map.json"
_FILE, _MORE = "chat_template.jinja", "additional_chat_templates"


@dataclass(frozen=True, slots=True)
class TokenizerTexts:
    """What lies beside a tokenizer, as `plan.tokenizer_data` carries it."""

    config: str
    chat_template: str
    other_templates: dict[str, str]
    special_tokens: dict[str, str]


def read_texts(tokenizer: Path) -> TokenizerTexts:
    """The texts in the folder of the file ``tokenizer``; empty where there are none.

    Raises:
        TokenizerError: one cannot be read, is not UTF-8 or JSON, or is larger than any template.
    """
    folder = tokenizer.parent
    config = "" if tokenizer.name == _CONFIG else _text(folder / _CONFIG)
    fields = _object(config, folder / _CONFIG)
    templates = _templates_of(fields.get("chat_template"), folder / _CONFIG)
    if own := _text(folder / _FILE):
        templates["default"] = _checked(own, folder / _FILE)
    if (folder / _MORE).is_dir():
        for file in sorted((folder / _MORE).glob("*.jinja"))[: MAX_TEMPLATES + 1]:
            templates[file.stem] = _checked(_text(file), file)
    if len(templates) > MAX_TEMPLATES:
        raise TokenizerError(f"{folder}: more than {MAX_TEMPLATES} chat templates; expected a few")
    special = _special_tokens(_object(_text(folder / _MAP), folder / _MAP)) | _special_tokens(fields)
    return TokenizerTexts(config, templates.pop("default", ""), templates, special)


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file of a size that a tokenizer may have. Raises TokenizerError."""
    try:
        status = path.stat()  # before opening: to open a FIFO would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise TokenizerError(f"{path}: {what}; expected a tokenizer file")
        if status.st_size > MAX_BYTES:
            raise TokenizerError(
                f"{path}: too large for a tokenizer; expected at most {MAX_BYTES} bytes, got {status.st_size}"
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except (OSError, ValueError) as e:
        raise TokenizerError(f"{path}: cannot be read; {e.strerror if isinstance(e, OSError) else e}") from None


def _text(path: Path) -> str:
    if not os.path.lexists(path):
        return ""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as e:
        raise TokenizerError(f"{path}: not UTF-8 at byte {e.start}") from None


def _object(text: str, path: Path) -> dict[str, object]:
    if not text:
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise TokenizerError(f"{path}: not JSON; {e}") from None
    if not isinstance(document, dict):
        raise TokenizerError(f"{path}: expected a JSON object, got {type(document).__name__}")
    return cast("dict[str, object]", document)


def _templates_of(value: object, path: Path) -> dict[str, str]:
    """Name to source; the unnamed one of a plain string is called ``default``."""
    if isinstance(value, str):
        return {"default": _checked(value, path)} if value else {}
    found: dict[str, str] = {}
    for item in cast("list[object]", value) if isinstance(value, list) else []:
        fields = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        name, source = fields.get("name"), fields.get("template")
        if isinstance(name, str) and isinstance(source, str) and source:
            found[_checked(name, path)] = _checked(source, path)
    return found


def _special_tokens(fields: dict[str, object]) -> dict[str, str]:
    """What is called ``…_token``: a string, or a serialised AddedToken. A token that is null is none."""
    found: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            value = cast("dict[str, object]", value).get("content")
        if name.endswith("_token") and isinstance(value, str) and _is_text(name) and _is_text(value):
            found[name] = value
    return found


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _checked(template: str, path: Path) -> str:
    if len(template) > MAX_TEMPLATE:
        raise TokenizerError(f"{path}: chat_template; expected at most {MAX_TEMPLATE} characters, got {len(template)}")
    try:
        template.encode("utf-8")
    except UnicodeEncodeError as e:
        raise TokenizerError(f"{path}: chat_template; not valid Unicode, a lone surrogate at {e.start}") from None
    return template
