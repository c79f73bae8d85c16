"""Models in the true shapes of well-known ones, lowered for CUDA without a weight being there."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
from graphllm.plan.launch import Kernel, Launch, Program

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


@dataclass(frozen=True, eq=False)
class Shared:
    """A kernel that several models may have, under a name of its own, and where: models, and its name in each."""

    kernel: Kernel
    users: list[tuple[CudaModel, str]]

    def of(self, *prefixes: str) -> bool:
        """Whether functions of these names launch it."""
        return any(name in model.kernels_of(*prefixes) for model, name in self.users)

    def launches(self) -> list[Launch]:
        """Every launch of it, in every model."""
        streams = [(stream, own) for model, own in self.users for stream in model.program.streams.values()]
        return [x for stream, own in streams for x in (*stream.launches, *stream.choice) if x.kernel == own]


def distinct_kernels(models: Iterable[CudaModel]) -> list[Shared]:
    """Every kernel once: those of models whose texts differ in nothing but names and comments are one."""
    found: dict[str, Shared] = {}
    count: dict[str, int] = {}
    for model in models:
        for name, kernel in model.program.kernels.items():
            lines = (line for line in kernel.text.splitlines() if not line.startswith("//"))
            text = "\n".join(lines).replace(name, "kernel")
            if text not in found:
                stem = name.rpartition("_")[0]
                count[stem] = count.get(stem, 0) + 1
                own = f"{stem}_{count[stem]}"
                found[text] = Shared(Kernel(own, kernel.text.replace(name, own), kernel.ir), [])
            found[text].users.append((model, name))
    return list(found.values())
