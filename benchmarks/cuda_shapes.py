"""Models in the true shapes of well-known ones, lowered for CUDA without a weight being there."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmarks.make_checkpoint import SHAPES, Shape, config_of
from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.compile import lower
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.huggingface_config import read_config
from graphllm.frontends.sizes import tensor_shapes
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module, Weight
from graphllm.ir.types import TensorType
from graphllm.passes.pipeline import lowering, portable
from graphllm.passes.quantize_int8 import Quantization
from graphllm.plan.launch import Program

Stored = Literal["f32", "bf16", "int8"]
LLAMA_8B = Shape("llama", 4096, 14336, 32, 32, 8, 128256, 8192, 1e-5, 5e5, False, 128000, 128001)
ALL_SHAPES = SHAPES | {"llama-3-8b": LLAMA_8B}


@dataclass(frozen=True, eq=False)
class CudaModel:
    """A model as the CUDA target has it."""

    config: ModelConfig
    module: Module
    program: Program

    def kernels_of(self, *prefixes: str) -> set[str]:
        """Names of the kernels that functions of these names launch."""
        streams = [s for name, s in self.program.streams.items() if name.startswith(prefixes)]
        return {x.kernel for s in streams for x in (*s.launches, *s.choice)}


def cuda_model(
    name: str, stored: Stored, *, slots: int = 1, context: int = 4096, layers: int = 0, vocab: int = 0
) -> CudaModel:
    """A model of a known shape with a KV cache of f16; 0 leaves the shape's own layers and vocabulary."""
    shape = ALL_SHAPES[name]
    dtype = "f32" if stored == "f32" else "bf16"
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config_of(shape, dtype)))
        config, _ = read_config(Path(folder))
    if layers or vocab:
        layers, vocab = layers or config.layers, vocab or config.vocab
        config = replace(config, layers=layers, vocab=vocab, windows=config.windows[:layers], bos_id=None, eos_ids=())
    weights = {n: Weight(n, TensorType(dtype, size), None, n) for n, size in tensor_shapes(config).items()}
    passes = portable(None, Quantization("int8") if stored == "int8" else None)
    traced = trace(config, weights, 0, Steps(min(config.context, context), slots, "f16"))
    _, module, _ = lower(traced, passes, lowering(CUDA))
    return CudaModel(config, module, generate(module))
