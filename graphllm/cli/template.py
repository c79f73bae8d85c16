"""Options about chat templates."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from graphllm.cli.input import argument, read_text
from graphllm.errors import GraphLLMError


def template_choice(choice: str | None) -> str | None:
    """A template's name as it is, or the text of a file. Raises GraphLLMError for one that cannot be read."""
    if choice is None or not (choice.endswith(".jinja") or "/" in choice or "\\" in choice):
        return choice
    text = read_text(choice, "chat template")
    return text if "{" in text else "{#  #}" + text


def variables_choice(settings: list[str]) -> dict[str, Any]:
    """``--set NAME=VALUE``: JSON where it is, a text where it is not. Raises GraphLLMError for what is no such pair."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise GraphLLMError(f"--set {setting}: expected NAME=VALUE, as in enable_thinking=false")
        found[name] = argument(value, "--set")
        with suppress(ValueError, RecursionError):
            found[name] = json.loads(value)
    return found
