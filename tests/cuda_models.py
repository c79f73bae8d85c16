"""Checkpoints as CUDA kernels on the simulator, every access to memory looked at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.compile import lower, weights_of
from graphllm.compiler.native.simulated import simulated
from graphllm.compiler.weights import WeightReader
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module
from graphllm.passes.pipeline import lowering, portable
from graphllm.plan.launch import Program
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.cuda.simulator import Simulator
from graphllm.runtime.engine import Engine
from tests.cuda_simulator import SANITIZER, needs_compiler

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Compiled:
    """A checkpoint as a program, with its library and its weights."""

    module: Module
    program: Program
    library: Path
    weights: dict[str, Array]
    arch: str


@lru_cache(maxsize=4)
def compiled(path: Path, steps: Steps, arch: str = "sm_90", watch: bool = True) -> Compiled:
    """A checkpoint compiled for the simulator; steps' context is at most the model's."""
    needs_compiler()
    checkpoint = open_checkpoint(path)
    steps = replace(steps, context=min(steps.context, checkpoint.config.context))
    traced = trace(checkpoint.config, weights_of(checkpoint), checkpoint.group, steps)
    _, module, _ = lower(traced, portable(), lowering(CUDA))
    program = generate(module)
    read = WeightReader(lambda w: checkpoint.tensors[w.name].read(), lambda: None)
    weights = {w.name: np.array(read(w)) for w in module.stored_weights()}
    library = simulated(list(program.kernels.values()), arch, watch=watch and not SANITIZER, extra=SANITIZER)
    return Compiled(module, program, library, weights, arch)


@contextmanager
def running(model: Compiled, **choices: Any) -> Iterator[Engine]:
    """The model on a simulator, whose arena is full of NaN before every step."""
    driver = Simulator(model.library, model.arch, **choices)
    device = CudaDevice(driver, model.program, model.module, model.weights.__getitem__, poison=True)
    try:
        yield Engine(device, model.module)
    finally:
        device.close()


def greedy(engine: Engine, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens, chosen by the host from the logits."""
    engine.truncate(0)
    out = [int(np.argmax(engine.feed(prompt)))]
    while len(out) < count:
        out.append(int(np.argmax(engine.step(out[-1]))))
    return out


def scored(engine: Engine, ids: list[int]) -> Array:
    """Logits [T,V] of every position."""
    engine.truncate(0)
    return np.concatenate([block.copy() for block in engine.score(ids)])
