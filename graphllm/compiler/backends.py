"""What belongs to each target: its part of the passes, its generator, what is told of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphllm.codegen.cpu.generate import generate as generate_cpu
from graphllm.codegen.cpu.generate import kernel_names as cpu_kernels
from graphllm.codegen.cpu.target import CPU
from graphllm.codegen.cuda.generate import generate as generate_cuda
from graphllm.codegen.cuda.target import CUDA
from graphllm.codegen.numpy.generate import generate as generate_numpy
from graphllm.codegen.numpy.generate import kernel_names as numpy_kernels
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.launches.listing import cuda_kernels, cuda_launches, listing
from graphllm.compiler.link_numpy import int8_matrices
from graphllm.compiler.targets import TargetName
from graphllm.ir.core import Module
from graphllm.ir.target import Target
from graphllm.ir.types import DType


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
