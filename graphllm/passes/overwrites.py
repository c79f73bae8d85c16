"""What must not move past an overwriting of a state: whoever still reads the old value, or a window on it.

Nothing in the operands says so, and the passes that reorder operations ask here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from graphllm.ir.core import Operation
from graphllm.ir.opdef import lookup


def readers_of_overwritten(ops: Sequence[Operation]) -> dict[int, set[int]]:
    """Index of each operation (or kernel) that overwrites -> indices of those that read what it overwrites."""
    readers: dict[int, set[int]] = defaultdict(set)
    seen_through: dict[int, int] = {}  # id(window) -> id(what it looks at)
    overwritten: list[tuple[int, int]] = []
    for i, op in enumerate(ops):
        for o in op.body.ops if op.body is not None else (op,):
            entry = lookup(o.name)
            sources = [seen_through.get(id(v), id(v)) for v in o.operands]
            for source in sources:
                readers[source].add(i)
            if entry.views is not None:
                seen_through.update({id(v): sources[entry.views] for v in o.results})
            if entry.updates is not None:
                overwritten.append((i, sources[entry.updates]))
    out: dict[int, set[int]] = defaultdict(set)
    for i, source in overwritten:
        out[i] |= readers[source] - {i}
    return out
