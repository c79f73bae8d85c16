"""Prints a lowered module as one C++ translation unit."""

from __future__ import annotations

from graphllm.errors import NativeError
from graphllm.ir.core import Module


def generate(module: Module) -> str:
    raise NativeError("the cpu target: not written yet")


def weight_names(module: Module) -> list[str]:
    """Stored weights in the order in which the library is given them."""
    return [w.name for w in module.stored_weights()]
