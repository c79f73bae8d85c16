"""JSON with one spelling on the way out and no surprises on the way in.

Written: sorted keys, no spaces, UTF-8, so equal documents are equal bytes. Read: no duplicate keys, no NaN or
infinity, no lone surrogates, bounded nesting; whatever a hostile file holds, the answer is a value or a PlanError.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast

from graphllm.errors import PlanError

MAX_DEPTH = 64


def dump_json(value: object, where: str) -> bytes:
    """Canonical bytes of a JSON value; PlanError when it holds something that JSON cannot say."""
    try:
        text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PlanError(f"{where}: cannot be written as JSON: {_line(error)}") from None


def parse_json(data: bytes, where: str) -> Any:
    """The value that `data` spells; PlanError for anything that is not strict JSON."""
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        # A number escape such as \ud800 makes a string that UTF-8 cannot hold; it would fail much later.
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{where}: not valid JSON: {_line(error)}") from None
    if not _within_depth(value):
        raise PlanError(f"{where}: not valid JSON: nested deeper than {MAX_DEPTH} levels")
    return value


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """As `parse_json`, for documents that must be objects."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise PlanError(f"{where}: not a JSON object; expected {{...}}, got a {type(value).__name__}")
    return cast("dict[str, Any]", value)


def _line(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"nested deeper than {MAX_DEPTH} levels"
    return " ".join(str(error).split())[:160]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:60]!r} appears twice")
            seen.add(key)
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:40]} is too large")
    return value


def _within_depth(value: object) -> bool:
    # By levels and not by recursion: the input chose the depth.
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(cast("dict[str, object]", item).values())
            elif isinstance(item, list):
                below.extend(cast("list[object]", item))
        if not below:
            return True
        level = below
    return False
