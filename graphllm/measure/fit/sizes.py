"""Sizes as people write them: ``8GiB``, ``500 MB``, ``1073741824``."""

from __future__ import annotations

import re
from typing import Final

from graphllm.errors import GraphLLMError

_UNITS: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**i for i, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**i for i, prefix in enumerate("kmgt", 1)},
}
_SIZE: Final = re.compile(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*")
_MOST: Final = 1 << 60


def bytes_of(text: str, where: str) -> int:
    """Bytes of a size. Raises GraphLLMError ``where: …`` for what is none."""
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match is not None else None
    if match is None or unit is None or not 0 < (size := int(float(match[1]) * unit)) <= _MOST:
        raise GraphLLMError(f"{where}: {text[:40]!r}; expected a size, as 8GiB, 500MB or 1073741824")
    return size
