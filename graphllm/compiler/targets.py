"""The targets there are by name, and which one is meant where nobody says."""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

from graphllm.compiler.native.toolchain import HOW_TO_GET_ONE, compiler_command
from graphllm.errors import GraphLLMError

TargetName = Literal["cpu", "numpy", "cuda"]
DeviceName = Literal["cpu", "numpy", "cuda", "cuda-sim"]  # what computes; cuda-sim is a GPU played by the CPU


def target_of(device: DeviceName) -> TargetName:
    """What a plan is lowered for to run on a device."""
    return "cuda" if device == "cuda-sim" else device


def resolve_device(asked: str | None) -> tuple[DeviceName, int, str]:
    """The device asked for and its number, as in ``cuda:1``, or that of ``resolve``; and, unless asked, why.

    Raises:
        GraphLLMError: there is no such device.
    """
    if not asked:
        target, why = resolve(None)
        return target, 0, why
    word, colon, number = asked.partition(":")
    if word not in get_args(DeviceName) or (colon and not (number.isascii() and number.isdigit() and len(number) < 4)):
        known = ", ".join(get_args(DeviceName))
        raise GraphLLMError(f"device {asked[:40]!r}: expected {known}, or one with a number, as cuda:0")
    return cast(DeviceName, word), int(number or 0), ""


def resolve(asked: str | None) -> tuple[TargetName, str]:
    """The target asked for, or $GRAPHLLM_TARGET, or else cpu where there is a compiler; and, unless asked, why.

    Raises:
        GraphLLMError: there is no such target.
    """
    word = asked or os.environ.get("GRAPHLLM_TARGET")
    if word:
        if word not in get_args(TargetName):
            raise GraphLLMError(f"target: {word[:40]!r}; expected {', '.join(get_args(TargetName))}")
        return cast(TargetName, word), ""
    if compiler_command() is None:
        return "numpy", f"target numpy, for want of a C++ compiler: to run several times as fast {HOW_TO_GET_ONE}"
    return "cpu", "target cpu"
