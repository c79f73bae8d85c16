"""Which kernels wait for those ahead of them, found in their text and in that of the headers they call.

A kernel that is launched while others run must wait before it touches what they touch. One that never waits also never
ends after those ahead of it, so that nobody behind it knows anything either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from graphllm.plan.launch import Kernel

_WAIT: Final = "wait_for_producers"
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_HEAD: Final = re.compile(r"\b(\w+)\s*\((?:[^(){};]|\([^(){};]*\))*\)\s*(?:const\s*)?\{")
_CALL: Final = re.compile(r"\b(\w+)\s*(?:<[^;{}()]*>)?\s*\(")
_WORDS: Final = frozenset(("if", "for", "while", "switch", "return", "sizeof"))


def waiting(texts: Iterable[str], known: Iterable[str] = (_WAIT,)) -> frozenset[str]:
    """Names of the functions that wait, by calling one that does; ``known`` do."""
    bodies: dict[str, set[str]] = {}
    for text in texts:
        for name, called in _functions(text):
            bodies.setdefault(name, set()).update(called)
    known = set(known)
    while more := {name for name, called in bodies.items() if called & known} - known:
        known |= more
    return frozenset(known)


def without_wait(kernels: Mapping[str, Kernel], headers: Iterable[str]) -> list[str]:
    """Names of kernels that call nothing that waits."""
    known = waiting(headers)
    out: list[str] = []
    for kernel in kernels.values():
        if kernel.name not in waiting([kernel.text], known):
            out.append(kernel.name)
    return out


def _functions(text: str) -> list[tuple[str, set[str]]]:
    """Functions of a text, and what each calls."""
    text = _COMMENT.sub("", text)
    out: list[tuple[str, set[str]]] = []
    for match in _HEAD.finditer(text):
        if match[1] in _WORDS:
            continue
        depth, at = 1, match.end()
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        out.append((match[1], set(_CALL.findall(text[match.end() : at]))))
    return out
