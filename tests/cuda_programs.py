"""CUDA programs written by hand, for tests of everything that comes after the code generator."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from graphllm.plan.launch import Kernel


def needs_nvrtc() -> None:
    """Skip where kernels cannot be compiled."""
    from graphllm.compiler.nvrtc.library import nvrtc_missing

    if find_spec("cuda") is None or (why := nvrtc_missing()):
        pytest.skip(why if find_spec("cuda") else "NVRTC is not installed: pip install .[cuda]")


def kernel(name: str, body: str, arguments: str = "const float* x, float* y", ir: str = "") -> Kernel:
    """A translation unit with one kernel of 64 threads."""
    head = '#include "prelude.cuh"\nusing namespace graphllm;\nextern "C" __global__ void __launch_bounds__(64) '
    return Kernel(name, f"{head}{name}({arguments}) {{\n{body}\n}}\n", ir or f"%y = {name} %x : f32[64]")


DOUBLE = kernel("twice", "    wait_for_producers();\n    y[threadIdx.x] = 2 * x[threadIdx.x];")
