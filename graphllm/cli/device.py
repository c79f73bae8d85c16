"""Devices as people name them: a target, and a number where a machine has several, as ``cuda:1``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphllm.compiler.targets import TargetName


def named_device(name: str | None) -> tuple[TargetName, int]:
    """(target, number); the default target without a name. Raises GraphLLMError for one that there is not."""
    from graphllm.compiler.targets import resolve
    from graphllm.errors import GraphLLMError

    word, colon, number = (name or "").partition(":")
    if colon and not (number.isascii() and number.isdigit() and len(number) < 4):
        raise GraphLLMError(f"device {(name or '')[:40]!r}: expected a target, as cpu, or with a number, as cuda:0")
    target, _ = resolve(word or None)
    return target, int(number or 0)
