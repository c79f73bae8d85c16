"""The targets there are, and which one is meant where nobody says."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from graphllm.codegen.cpu.generate import generate as generate_cpu
from graphllm.codegen.cpu.generate import kernel_names as cpu_kernels
from graphllm.codegen.cpu.target import CPU
from graphllm.codegen.cuda.generate import generate as generate_cuda
from graphllm.codegen.cuda.target import CUDA
from graphllm.codegen.numpy.generate import generate as generate_numpy
from graphllm.codegen.numpy.generate import kernel_names as numpy_kernels
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.launches.listing import cuda_kernels, cuda_launches, listing
from graphllm.compiler.link import int8_matrices
from graphllm.compiler.native.toolchain import HOW_TO_GET_ONE, compiler_command
from graphllm.errors import GraphLLMError
from graphllm.ir.core import Module
from graphllm.ir.target import Target
from graphllm.ir.types import DType

TargetName = Literal["cpu", "numpy", "cuda"]
DeviceName = Literal["cpu", "numpy", "cuda", "cuda-sim"]  # what computes; cuda-sim is a GPU played by the CPU


@dataclass(frozen=True, slots=True)
class Backend:
    """A target, the generator that prints a module lowered for it, and what its KV cache stores unless asked.

    ``kernels`` tells for each function which kernel of the text each of its operations calls, ``launches`` how,
    in words; '' for none.
    """

    target: Target
    source: Callable[[Module], str]
    kv_dtype: DType
    language: str = ""
    kernels: Callable[[Module], Mapping[str, Sequence[str]]] = lambda module: {}
    launches: Callable[[Module], Mapping[str, Sequence[str]]] = lambda module: {}


BACKENDS: Final[dict[TargetName, Backend]] = {
    "cpu": Backend(CPU, generate_cpu, "f16", "C++", cpu_kernels),
    "numpy": Backend(
        NUMPY,
        lambda module: generate_numpy(module, int8_matrices(module)),
        "f32",
        "Python",
        lambda module: numpy_kernels(module, int8_matrices(module)),
    ),
    "cuda": Backend(CUDA, lambda module: listing(generate_cuda(module)), "f16", "CUDA C", cuda_kernels, cuda_launches),
}


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
