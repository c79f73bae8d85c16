"""Typed, bounded fields of a JSON object, with errors that name the file, the key, the value and the expectation.

Unknown keys are tolerated: configs carry much that is not about inference. A key that is ``null`` counts as absent.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, cast

from graphllm.errors import CheckpointError
from graphllm.frontends.mapped_file import open_descriptor

MAX_JSON = 64 << 20  # an index of a very large model has a few MB
MAX_INT = 2**31 - 1
ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class JsonFields:
    """An object and where it stands."""

    where: str
    data: dict[str, Any]

    def wrong(self, key: str, expected: str) -> CheckpointError:
        found = "absent" if key not in self.data else f"is {shorten(self.data[key])}"
        return CheckpointError(f"{self.where}: {key} {found}; expected {expected}")

    def _get(self, key: str, default: Any, expected: str) -> Any:
        value = self.data.get(key)
        if value is None and default is ABSENT:
            raise self.wrong(key, expected)
        return default if value is None else value

    def integer(self, key: str, default: int = ABSENT, least: int = 1, most: int = MAX_INT) -> int:
        expected = f"a whole number from {least} to {most}"
        value = self._get(key, default, expected)
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key, expected)
        return value

    def number(self, key: str, default: float = ABSENT, above: float = 0.0, below: float = math.inf) -> float:
        expected = f"a number above {above:g}" + (f" and below {below:g}" if below < math.inf else "")
        value = self._get(key, default, expected)
        # NaN compares false, and Python's JSON reads NaN and Infinity. Beyond 1e300 an int may not fit a float.
        if type(value) not in (int, float) or not above < value < below or not abs(value) < 1e300:
            raise self.wrong(key, expected)
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default, "true or false")
        if type(value) is not bool:
            raise self.wrong(key, "true or false")
        return value

    def text(self, key: str, default: str = ABSENT, expected: str = "a string") -> str:
        value = self._get(key, default, expected)
        if type(value) is not str:
            raise self.wrong(key, expected)
        return value

    def choice(self, key: str, default: str, known: Sequence[str]) -> str:
        expected = f"one of {', '.join(known)}"
        value = self.text(key, default, expected)
        if value not in known:
            raise CheckpointError(f"{self.where}: {key} {shorten(value)} is not supported; expected {expected}")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, empty when absent."""
        value = self._get(key, [], "a list of strings")
        if not isinstance(value, list) or not all(type(item) is str for item in cast("list[Any]", value)):
            raise self.wrong(key, "a list of strings")
        return cast("list[str]", value)

    def object(self, key: str) -> JsonFields | None:
        value = self._get(key, None, "an object")
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return None if value is None else JsonFields(f"{self.where}: {key}", cast("dict[str, Any]", value))

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids written as one number or a list, empty when absent. Ids like -1 are the caller's to judge."""
        value = self._get(key, [], "")
        items = cast("list[Any]", value if isinstance(value, list) else [value])
        if len(items) > 1024 or not all(type(item) is int and abs(item) <= MAX_INT for item in items):
            raise self.wrong(key, "a token id or a list of token ids")
        return tuple(dict.fromkeys(items))


def read_json(path: Path) -> JsonFields:
    """The object in a JSON file. NaN is let through, so that the key holding it can be named."""
    with os.fdopen(open_descriptor(path), "rb") as file:
        data = file.read(MAX_JSON + 1)
    if len(data) > MAX_JSON:
        raise CheckpointError(f"{path}: over {MAX_JSON} bytes; expected a JSON file of a model")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: not valid JSON ({reason}); expected an object") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(value).__name__}; expected an object")
    return JsonFields(str(path), cast("dict[str, Any]", value))
