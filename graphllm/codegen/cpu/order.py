"""The order in which native code is given weights; apart from the generator, which a warm start does not need."""

from __future__ import annotations

from graphllm.ir.core import Module


def weight_names(module: Module) -> list[str]:
    """Stored weights in the order in which the library is given them."""
    return [w.name for w in module.stored_weights()]
