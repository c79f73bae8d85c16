"""Patterns over producers, written as the left side of an equation: ``mul(silu(a), b)``.

A word with brackets matches an operation of that name with that many operands, a bare word binds whatever stands
there, and the same word twice asks for the same value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphllm.ir.core import Operation, Value


@dataclass(frozen=True, slots=True)
class Pattern:
    """A node of a pattern: an operation's name with sub-patterns, or (``op`` empty) a variable."""

    op: str
    variable: str
    operands: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """What a pattern found: values by variable, operations by their name."""

    values: Mapping[str, Value]
    found: Mapping[str, list[Operation]]

    def __getitem__(self, variable: str) -> Value:
        return self.values[variable]

    def op(self, name: str) -> Operation:
        """The outermost, leftmost operation of that name."""
        return self.found[name][0]


def parse_pattern(text: str) -> Pattern:
    """The pattern that ``text`` says."""
    tokens = re.findall(r"[A-Za-z_][A-Za-z0-9_]*|[(),]", text)
    pattern, rest = _parse(tokens)
    assert not rest, f"left over in pattern {text!r}: {rest}"
    return pattern


def _parse(tokens: list[str]) -> tuple[Pattern, list[str]]:
    word, rest = tokens[0], tokens[1:]
    if not rest or rest[0] != "(":
        return Pattern("", word, ()), rest
    rest = rest[1:]
    operands: list[Pattern] = []
    while rest[0] != ")":
        if rest[0] == ",":
            rest = rest[1:]
        operand, rest = _parse(rest)
        operands.append(operand)
    return Pattern(word, "", tuple(operands)), rest[1:]


def match(pattern: Pattern, root: Operation, producer: Callable[[Value], Operation | None]) -> Match | None:
    """Match ``pattern`` at ``root``. ``producer``: the operation behind a value, None where it must not be seen."""
    if root.name != pattern.op:  # nearly always
        return None
    values: dict[str, Value] = {}
    found: dict[str, list[Operation]] = {}

    def node(p: Pattern, op: Operation) -> bool:
        if op.name != p.op or len(op.operands) != len(p.operands) or len(op.results) != 1:
            return False
        found.setdefault(op.name, []).append(op)
        return all(leaf(q, v) for q, v in zip(p.operands, op.operands, strict=True))

    def leaf(p: Pattern, value: Value) -> bool:
        if p.variable:
            return values.setdefault(p.variable, value) is value
        op = producer(value)
        return op is not None and node(p, op)

    return Match(values, found) if node(pattern, root) else None
