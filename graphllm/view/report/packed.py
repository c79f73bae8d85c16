"""The report's data in fewer bytes, still JSON: a page of two plans of a large model must stay small to be passed on.

What takes room is said again and again: the names of fields, equal types, equal lists. So an object becomes
``[number of its list of fields, value, …]``, a list ``[-1, item, …]``, and what occurs more than once ``[-2, number]``
of ``pool``, whose entries use earlier ones alone. Everything else stands as it is. ``packed.js`` is the way back.
"""

from __future__ import annotations

from typing import Any, Final, cast

LIST: Final = -1
POOLED: Final = -2
_SHORT: Final = 3  # items of a list up to which naming it saves nothing


def packed(data: object) -> dict[str, Any]:
    """``{keys, pool, data}`` of plain data. The same data gives the same."""
    return _Packer().pack(data)


def unpacked(document: dict[str, Any]) -> Any:
    """The data that ``packed`` was given."""
    keys, pool = document["keys"], document["pool"]

    def back(node: Any) -> Any:
        if not isinstance(node, list):
            return node
        first, *rest = cast("list[Any]", node)
        if first == POOLED:
            return back(pool[rest[0]])
        values = [back(v) for v in rest]
        return values if first == LIST else dict(zip(keys[first], values, strict=True))

    return back(document["data"])


class _Packer:
    def __init__(self) -> None:
        self.keys: dict[tuple[str, ...], int] = {}
        self.known: dict[tuple[object, ...], int] = {}  # a node by what it consists of
        self.nodes: list[tuple[int, tuple[object, ...]]] = []  # (head, children); a child is a number or (leaf,)
        self.uses: list[int] = []
        self.places: dict[int, int] = {}  # nodes in the pool
        self.pool: list[object] = []

    def pack(self, data: object) -> dict[str, Any]:
        root = self.number(data)
        out = self.written(root)
        return {"keys": [list(names) for names in self.keys], "pool": self.pool, "data": out}

    def number(self, data: object) -> object:
        """The number of an object's or list's node, ``(type, leaf)`` for anything else."""
        if isinstance(data, dict):
            record = cast("dict[str, object]", data)
            head = self.keys.setdefault(tuple(record), len(self.keys))
            values: list[object] = list(record.values())
        elif isinstance(data, list | tuple):
            head, values = LIST, list(cast("list[object]", data))
        else:
            return (type(data).__name__, data)  # True is not 1
        children = tuple(map(self.number, values))
        key = (head, *children)
        found = self.known.get(key)
        if found is None:
            found = self.known[key] = len(self.nodes)
            self.nodes.append((head, children))
            self.uses.append(0)
            for child in children:
                if isinstance(child, int):
                    self.uses[child] += 1
        return found

    def written(self, node: object) -> object:
        if not isinstance(node, int):
            return cast("tuple[str, object]", node)[1]
        if node in self.places:
            return [POOLED, self.places[node]]
        head, children = self.nodes[node]
        out = [head, *map(self.written, children)]
        if self.uses[node] < 2 or len(out) <= _SHORT:
            return out
        self.places[node] = len(self.pool)
        self.pool.append(out)
        return [POOLED, self.places[node]]
