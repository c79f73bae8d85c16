"""Names of special tokens that people write stay text: no message can end its own turn or begin the system's.

A template puts messages and special tokens into one text, where they can no longer be told apart. So each special
token's name in a message is replaced by one private-use character before rendering, one that occurs nowhere else, and
put back afterwards, marked as text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from graphllm.errors import RunError

_FIRST, _LAST = 0xF0000, 0xFFFFD  # supplementary private use area A: no encoding gives these a meaning


class Literals:
    """Replaces special tokens' names in the values given to a template, and puts them back into what it made."""

    def __init__(self, names: Collection[str], values: Mapping[str, Any], template: str) -> None:
        """Args: the special tokens' names, what the template will be given, and the template. Raises RunError."""
        # The longest first: <|im_start|> is that, and not a shorter one with something behind it.
        self._pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
        texts = [template, *_texts(values)]
        found = sorted({name for text in texts[1:] for name in self._pattern.findall(text)})
        used = {char for text in texts for char in text if ord(char) >= _FIRST} if found else set[str]()
        free = (char for char in map(chr, range(_FIRST, _LAST)) if char not in used)
        self._stand_ins = dict(zip(found, free, strict=False))
        if len(self._stand_ins) < len(found):
            raise RunError("messages: every private-use character occurs in them; expected one that does not")
        self._names = {char: name for name, char in self._stand_ins.items()}
        self.values: dict[str, Any] = cast("dict[str, Any]", self._replaced(values)) if found else dict(values)

    def parts(self, rendered: str) -> list[tuple[str, bool]]:
        """The text in pieces, each with whether names of special tokens in it are meant as those."""
        if not self._names:
            return [(rendered, True)]
        pieces = re.split("([" + "".join(self._names) + "])", rendered)
        return [(self._names.get(piece, piece), piece not in self._names) for piece in pieces if piece]

    def _replaced(self, value: object) -> object:
        if isinstance(value, str):
            return self._pattern.sub(lambda match: self._stand_ins[match[0]], value)
        if isinstance(value, Mapping):
            items = cast("Mapping[object, object]", value).items()
            return {self._replaced(key): self._replaced(item) for key, item in items}
        if isinstance(value, list | tuple):
            return [self._replaced(item) for item in cast("list[object]", value)]
        return value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield from _texts(item)
