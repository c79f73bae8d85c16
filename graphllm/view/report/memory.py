"""The arena of each function: what lies where and when, and what makes the peak."""

from __future__ import annotations

from typing import Any

from graphllm.ir.core import Function
from graphllm.view.arena import in_use, peak, stretches

Json = dict[str, Any]


def memory_json(function: Function, lower_bound: int) -> Json:
    """Stretches in order of first use. Raises GraphLLMError where no memory was planned."""
    found = stretches(function)
    at, most = peak(found)
    place = {id(s): i for i, s in enumerate(found)}
    return {
        "arena": function.arena or 0,
        "lower_bound": lower_bound,
        "peak": {"step": at, "bytes": most, "stretches": [place[id(s)] for s in in_use(found, at)]},
        "stretches": [
            {
                "name": s.name,
                "type": s.type,
                "role": s.role,
                "offset": s.offset,
                "bytes": s.bytes,
                "first": s.first,
                "last": s.last,
                "heir_of": s.heir_of,
            }
            for s in found
        ],
    }
