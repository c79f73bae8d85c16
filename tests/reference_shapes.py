"""The three reference models, lowered for CUDA once for all tests."""

from __future__ import annotations

from functools import lru_cache

from benchmarks.cuda_shapes import CudaModel, Stored, cuda_model

REFERENCE = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")
CASES: tuple[tuple[str, Stored], ...] = tuple((name, stored) for name in REFERENCE for stored in ("bf16", "int8"))

__all__ = ["CASES", "REFERENCE", "CudaModel", "Stored", "reference"]


@lru_cache(maxsize=8)
def reference(name: str, stored: Stored) -> CudaModel:
    """With a context of 4096 or its own, matrices in bf16 or int8 groups of 64."""
    return cuda_model(name, stored)
