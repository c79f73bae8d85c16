"""What each pass did, line by line: the text of a module against the text before, layers that repeat shown once.

Lines of all snapshots are kept once, in one list; a row is a mark and a number into it. Marks:

    " "  as before          "-"  removed           "+"  added
    ">"  now in a kernel    "~"  in another place of the text     "@"  the same, with its place in memory or its scratch
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, Final

from graphllm.ir.core import Function, Module
from graphllm.ir.printer import print_function, print_module
from graphllm.view.fold import fold_layers
from graphllm.view.report.subject import Snapshot
from graphllm.view.scope import layer_of_name, layers_of

Json = dict[str, Any]
Row = list[str | int]
_PLACE: Final = re.compile(r" in arena\+[0-9]+| scratch arena\+[0-9]+:[0-9]+| arena [0-9]+(?= \{$)")
_LAYER_OF_LINE: Final = re.compile(r"(?:weight|state) @(\S+)")
SAME, REMOVED, ADDED, FUSED, MOVED, PLACED = " ", "-", "+", ">", "~", "@"


class LineTable:
    """Lines by number, each kept once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, line: str) -> int:
        if line not in self._numbers:
            self._numbers[line] = len(self.lines)
            self.lines.append(line)
        return self._numbers[line]


def shown_layers(module: Module) -> frozenset[int]:
    """The layers that stand for all: the first of every run of equal ones, over all functions."""
    found: set[int] = set()
    for function in module.functions.values():
        for segment in fold_layers(function):
            found.update(segment.layers[0])
    return frozenset(found)


def passes_json(snapshots: Sequence[Snapshot], table: LineTable) -> list[Json]:
    """Every snapshot with the rows of each function, and of the weights, against the snapshot before."""
    layers = shown_layers(snapshots[-1].module)
    before: dict[str, list[str]] = {}
    out: list[Json] = []
    for snapshot in snapshots:
        texts = _texts(snapshot.module, layers)
        sections = {
            name: [[mark, table.number(line)] for mark, line in changes(before.get(name, lines), lines)]
            for name, lines in texts.items()
        }
        marks = Counter(str(mark) for rows in sections.values() for mark, _ in rows)
        out.append(
            {
                "name": snapshot.name,
                "stage": snapshot.stage,
                "milliseconds": round(snapshot.milliseconds, 3),
                "counts": dict(snapshot.counts),
                "operations": _operations(snapshot.module),
                "lines": {mark: n for mark, n in sorted(marks.items()) if mark != SAME},
                "sections": sections,
            }
        )
        before = texts
    return out


def changes(before: Sequence[str], after: Sequence[str]) -> list[tuple[str, str]]:
    """(mark, line) from one text to the next; a removed line is an old one, every other a new one."""
    keys = [_key(line) for line in before], [_key(line) for line in after]
    old_lines = Counter(keys[0])
    rows: list[tuple[str, str]] = []
    removed: list[tuple[int, str]] = []  # place among the rows, key
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, *keys, autojunk=False).get_opcodes():
        if tag == "equal":
            rows += [(_kept(x, y), y) for x, y in zip(before[a0:a1], after[b0:b1], strict=True)]
            continue
        for line in before[a0:a1]:
            removed.append((len(rows), _key(line)))
            rows.append((REMOVED, line))
        rows += [(ADDED, line) for line in after[b0:b1]]
    return _with_moves(rows, old_lines)


def _with_moves(rows: list[tuple[str, str]], old: Counter[str]) -> list[tuple[str, str]]:
    """A line that went from one place to another is one row, at its new place."""
    gone = Counter(_key(line) for mark, line in rows if mark == REMOVED and _is_operation(line))
    come = Counter(_key(line) for mark, line in rows if mark == ADDED and _is_operation(line))
    moved = gone & come
    leaving, arriving = moved.copy(), moved.copy()
    was = {_key(line): line for mark, line in rows if mark == REMOVED}
    out: list[tuple[str, str]] = []
    for mark, line in rows:
        key = _key(line)
        if mark == REMOVED and leaving[key] > 0:
            leaving[key] -= 1
            continue
        if mark == ADDED and arriving[key] > 0:
            arriving[key] -= 1
            mark = FUSED if _indent(line) > _indent(was[key]) else MOVED
        out.append((mark, line))
    return out


def _kept(old: str, new: str) -> str:
    if old == new:
        return SAME
    if _indent(old) != _indent(new):
        return FUSED if _indent(new) > _indent(old) else MOVED
    return PLACED


def _is_operation(line: str) -> bool:
    return " = " in line and not line.startswith(("weight ", "state "))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _key(line: str) -> str:
    return _PLACE.sub("", line).strip()


def _texts(module: Module, layers: frozenset[int]) -> dict[str, list[str]]:
    """Lines of each function, under its name, and of weights and states, under ''."""
    head = print_module(Module(module.weights, module.states, {})).splitlines()
    texts = {"": [line for line in head if (n := _layer_of_line(line)) is None or n in layers]}
    for name, function in module.functions.items():
        texts[name] = print_function(only_layers(function, layers)).splitlines()
    return texts


def _layer_of_line(line: str) -> int | None:
    match = _LAYER_OF_LINE.match(line)
    return layer_of_name(match[1]) if match else None


def only_layers(function: Function, layers: frozenset[int]) -> Function:
    """The function without the layers that others stand for; no valid one, but one that prints."""
    ops = tuple(op for op in function.ops if not (held := layers_of(op)) or held & layers)
    updates = tuple((s, v) for s, v in function.updates if (n := layer_of_name(s.name)) is None or n in layers)
    return Function(function.name, function.inputs, ops, function.results, updates, function.rows, function.arena)


def _operations(module: Module) -> dict[str, int]:
    """How many operations of each name the first function has, most first."""
    first = next(iter(module.functions.values()), None)
    found = Counter(op.name for op in first.walk()) if first is not None else Counter[str]()
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
