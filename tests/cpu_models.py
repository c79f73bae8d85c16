"""Native code for tests: built quickly, without optimisation worth speaking of, and kept for the whole run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.order import weight_names
from graphllm.codegen.cpu.target import CPU
from graphllm.compiler.native import build
from graphllm.compiler.native.isa import Isa, chosen_isa
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.ir.core import Module
from graphllm.runtime.cpu_device import CpuDevice
from graphllm.runtime.engine import Engine
from tests.lowered_models import Lowered, Storage, lowered
from tests.precompiled import precompiled

Array = NDArray[Any]
SANITIZER = os.environ.get("GRAPHLLM_TEST_SANITIZER", "").split()  # set by tests of their own
SHIPPED = build.FLAGS
QUICK = (*("-O1" if flag == "-O3" else flag for flag in SHIPPED), *SANITIZER)  # for models that make many tokens
PLAIN = (*("-O0" if flag == "-O3" else flag for flag in SHIPPED), *SANITIZER)  # for kernels that run once


@pytest.fixture
def quick_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are built in a fraction of the time; what they compute is the same but for rounding."""
    if compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    monkeypatch.setattr(build, "FLAGS", PLAIN if SANITIZER else precompiled(PLAIN, chosen_isa()))


@pytest.fixture
def faster_builds(quick_builds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries take a little longer to build and a third of the time to run."""
    monkeypatch.setattr(build, "FLAGS", QUICK if SANITIZER else precompiled(QUICK, chosen_isa()))


@pytest.fixture
def shipped_builds(quick_builds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries are what users get: what optimising might break is tried with these."""
    if not SANITIZER:
        monkeypatch.setattr(build, "FLAGS", SHIPPED)


def cpu_lowered(name: str, storage: Storage = "f32", **choices: Any) -> Lowered:
    """A model of the zoo, lowered for native code."""
    return lowered(name, storage, target=CPU, **choices)


def cpu_device(
    module: Module, weights: Mapping[str, Array], *, threads: int = 1, poison: bool = False, isa: Isa | None = None
) -> CpuDevice:
    """The module as native code, its weights straight from arrays."""
    if isa is not None and "-include" in build.FLAGS:
        precompiled(PLAIN, isa)
    library = build.built(generate(module), isa=isa)
    return CpuDevice(module, library, weight_names(module), weights.__getitem__, threads=threads, poison=poison)


def cpu_engine(model: Lowered, **choices: Any) -> Engine:
    return Engine(cpu_device(model.module, model.weights, **choices), model.module)
