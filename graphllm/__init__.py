"""graphllm compiles a Llama or Qwen checkpoint into one file, a plan, and runs it.

    plan = graphllm.compile("model.bin")
    model = graphllm.load("plan.gllm")

Importing the package loads nothing: each name below is fetched from its part when it is first used (PEP 562), so that
``graphllm --help`` need not wait for NumPy. Parts of the package import each other, never this module.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from graphllm._version import __version__

if TYPE_CHECKING:
    from graphllm.api import Model, Plan, compile, load
    from graphllm.api.convert import convert
    from graphllm.errors import (
        CheckpointError,
        ContextFullError,
        DeviceError,
        GraphLLMError,
        NativeError,
        ParseError,
        PassError,
        PlanError,
        RunError,
        TemplateError,
        TokenizerError,
        VerifyError,
    )

__all__ = [
    "CheckpointError",
    "ContextFullError",
    "DeviceError",
    "GraphLLMError",
    "Model",
    "NativeError",
    "ParseError",
    "PassError",
    "Plan",
    "PlanError",
    "RunError",
    "TemplateError",
    "TokenizerError",
    "VerifyError",
    "__version__",
    "compile",
    "convert",
    "load",
]

# Where names come from that are not errors: imported when they are asked for, so that importing graphllm is quick.
_PLACES = {**dict.fromkeys(("Model", "Plan", "compile", "load"), "graphllm.api"), "convert": "graphllm.api.convert"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES.get(name, "graphllm.errors")), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
