"""The targets there are, and which one is meant where nobody says."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from graphllm.codegen.cpu.generate import generate as generate_cpu
from graphllm.codegen.cpu.target import CPU
from graphllm.codegen.numpy.generate import generate as generate_numpy
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.link import int8_matrices
from graphllm.compiler.native.toolchain import HOW_TO_GET_ONE, compiler_command
from graphllm.errors import GraphLLMError
from graphllm.ir.core import Module
from graphllm.ir.target import Target
from graphllm.ir.types import DType

TargetName = Literal["cpu", "numpy"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A target, the generator that prints a module lowered for it, and what its KV cache stores unless asked."""

    target: Target
    source: Callable[[Module], str]
    kv_dtype: DType


BACKENDS: Final[dict[TargetName, Backend]] = {
    "cpu": Backend(CPU, generate_cpu, "f16"),
    "numpy": Backend(NUMPY, lambda module: generate_numpy(module, int8_matrices(module)), "f32"),
}


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
