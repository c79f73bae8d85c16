"""The three reference models, lowered for CUDA once for all tests."""

from __future__ import annotations

from functools import lru_cache

from benchmarks.cuda_shapes import CudaModel, Shared, Stored, cuda_model, distinct_kernels

REFERENCE = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")
CASES: tuple[tuple[str, Stored], ...] = tuple((name, stored) for name in REFERENCE for stored in ("bf16", "int8"))

__all__ = ["CASES", "REFERENCE", "CudaModel", "Shared", "Stored", "all_kernels", "reference"]


@lru_cache(maxsize=8)
def reference(name: str, stored: Stored) -> CudaModel:
    """With a context of 4096 or its own, matrices in bf16 or int8 groups of 64."""
    return cuda_model(name, stored)


@lru_cache(maxsize=1)
def all_kernels() -> tuple[Shared, ...]:
    """The kernels of all of them, each once."""
    return tuple(distinct_kernels(reference(name, stored) for name, stored in CASES))
