"""Mixtures of experts on the CUDA target: what a plan launches and moves, and what its kernels compile to.

What they compute is proved with the others': ``test_cuda_generate``, ``test_cuda_models``, ``test_experts``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.compile import lower
from graphllm.compiler.launches.bytes_moved import step_moved
from graphllm.compiler.launches.validate import check_launches
from graphllm.compiler.nvrtc.build import built, headers
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.sizes import tensor_shapes
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module, Weight
from graphllm.ir.types import TensorType
from graphllm.passes.pipeline import lowering, portable
from graphllm.passes.quantize_int8 import Quantization
from graphllm.plan.launch import Program
from graphllm.runtime.cuda.places import Sizes
from tests.cuda_programs import needs_nvrtc
from tests.test_experts import CONFIG

Stored = Literal["bf16", "int8"]
# The shape of Qwen3-30B-A3B, with two layers.
LARGE = replace(
    CONFIG,
    dim=2048,
    heads=32,
    kv_heads=4,
    head_dim=128,
    ffn_dim=768,
    vocab=151936,
    context=4096,
    experts=128,
    experts_used=8,
)


def _model(config: ModelConfig, stored: Stored) -> tuple[Module, Program]:
    weights = {n: Weight(n, TensorType("bf16", shape), None, n) for n, shape in tensor_shapes(config).items()}
    traced = trace(config, weights, 0, Steps(config.context, 1, "f16", prefill=(8, 128)))
    passes = portable(None, Quantization("int8") if stored == "int8" else None)
    _, module, _ = lower(traced, passes, lowering(CUDA))
    return module, generate(module)


@pytest.mark.parametrize("stored", ["bf16", "int8"])
def test_a_step_moves_the_chosen_experts_alone(stored: Stored) -> None:
    moved: dict[int, int] = {}
    for experts in (16, 128):
        config = replace(LARGE, experts=experts)
        module, program = _model(config, stored)
        check_launches(program, Sizes.of(program, module), headers().values())
        step = step_moved(program.streams["decode"], module.functions["decode"], 128)
        assert 0.99 <= step.ratio <= 1.02
        moved[experts] = step.moved
    router = config.layers * 112 * config.dim * 2  # bytes, of bf16
    assert router <= moved[128] - moved[16] <= 1.2 * router + (1 << 16)  # nothing but the router grew
    prompt = step_moved(program.streams["prefill_128"], module.functions["prefill_128"], 0)
    assert prompt.ratio <= 1.05  # every expert once, however many rows chose it


@pytest.mark.parametrize("arch", ["sm_80", "sm_120"])
def test_their_kernels_compile(arch: str) -> None:
    needs_nvrtc()
    for stored in ("bf16", "int8"):
        _, program = _model(LARGE, stored)
        names = [n for n in program.kernels if "expert" in n]
        decode = {x.kernel for x in program.streams["decode"].launches}
        assert {n.rpartition("_")[0] for n in names} >= {"expert_linear", "top_experts", "expert_sum"}
        for (name, _), cubin in built([program.kernels[n] for n in names], [arch]).items():
            assert cubin.resources.registers <= 128, (name, cubin.resources)
            assert cubin.resources.spilled <= (0 if name in decode else 64), (name, cubin.resources)
