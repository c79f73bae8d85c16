"""Devices as people name them: a target, and a number where a machine has several, as ``cuda:1``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graphllm.compiler.targets import TargetName


def named_device(name: str | None) -> tuple[TargetName, int]:
    """(target, number); the default target without a name. Raises GraphLLMError for one that there is not."""
    from graphllm.compiler.targets import resolve_device, target_of

    device, number, _ = resolve_device(name)
    return target_of(device), number
