"""Saved dialogues: JSON that a person can read, and that is not trusted when it is read back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from graphllm.errors import PlanError, RunError
from graphllm.plan.strict_json import parse_object
from graphllm.runtime.chat.format import Message, check_messages

_FORMAT = "graphllm chat"
_VERSION = 1
_MOST = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Session:
    """What a file holds: the dialogue and what its template is told beside it."""

    messages: list[dict[str, Any]]
    now: float
    tools: list[Mapping[str, Any]] | None
    variables: dict[str, Any]


def write_session(
    path: Path,
    messages: Sequence[Message],
    now: float,
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any],
) -> None:
    """Write a dialogue, complete or not at all. Raises PlanError when it cannot be written."""
    from graphllm.plan.atomic_file import replacing

    held = {"format": _FORMAT, "version": _VERSION, "began": now, "messages": list(messages)}
    held |= {"tools": list(tools)} if tools else {}
    held |= {"variables": dict(variables)} if variables else {}
    data = (json.dumps(held, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    with replacing(path, len(data)) as file:
        file.write(data)


def read_session(path: Path) -> Session:
    """A dialogue from a file. Raises RunError unless it is one, whatever it holds."""
    try:
        if not path.is_file():
            raise RunError(
                f"{path}: {'not a regular file' if path.exists() else 'no such file'}; expected a saved chat"
            )
        with path.open("rb") as file:
            data = file.read(_MOST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"{path}: cannot be read; {reason}") from None
    if len(data) > _MOST:
        raise RunError(f"{path}: longer than {_MOST} bytes; expected a saved chat")
    try:
        held = parse_object(data, str(path))
    except PlanError as error:
        raise RunError(f"{error}; expected a saved chat") from None
    if held.get("format") != _FORMAT or held.get("version") != _VERSION:
        raise RunError(f"{path}: expected a saved chat of version {_VERSION}, got another JSON file")
    messages, now = held.get("messages"), held.get("began")
    tools, variables = held.get("tools"), held.get("variables", {})
    try:
        if messages != []:
            check_messages(messages)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    # Beyond the year 9999 there are no dates to write.
    if isinstance(now, bool) or not isinstance(now, int | float) or not math.isfinite(now) or not 0 <= now < 2.5e11:
        raise RunError(f"{path}: began: {now!r:.40}; expected seconds since 1970")
    if not isinstance(variables, dict):
        raise RunError(f"{path}: variables: expected an object, got {type(variables).__name__}")
    described = cast("list[object]", tools) if isinstance(tools, list) else []
    if tools is not None and (not described or not all(isinstance(tool, dict) for tool in described)):
        raise RunError(f"{path}: tools: expected a list of objects")
    return Session(
        cast("list[dict[str, Any]]", messages),
        float(now),
        cast("list[Mapping[str, Any]]", described) or None,
        cast("dict[str, Any]", variables),
    )
