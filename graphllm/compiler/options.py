"""What a person may choose when compiling; all of it is recorded in the plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from graphllm.errors import GraphLLMError
from graphllm.frontends.overrides import NO_OVERRIDES, Overrides
from graphllm.frontends.trace import Steps
from graphllm.ir.types import DType

DEFAULT_CONTEXT = 4096
MAX_CONTEXT = 1 << 24  # positions are exact in f32 up to here
MAX_SLOTS = 1024


@dataclass(frozen=True, slots=True)
class Options:
    """Compile options.

    Attributes:
        context: positions of the KV cache; 0 = the model's own, at most 4096.
        slots: sequences it holds at once.
        kv_dtype: f32 or f16, what it stores.
        dtype: what matrices are stored in (f32, f16, bf16); None keeps the checkpoint's.
        overrides: what the checkpoint does not say, or says wrong.
    """

    context: int = 0
    slots: int = 1
    kv_dtype: DType = "f32"
    dtype: DType | None = None
    overrides: Overrides = field(default=NO_OVERRIDES)

    def __post_init__(self) -> None:
        if not 0 <= self.context <= MAX_CONTEXT:
            raise GraphLLMError(f"context: {self.context}; expected 1 to {MAX_CONTEXT} positions, or 0 for the default")
        if not 1 <= self.slots <= MAX_SLOTS:
            raise GraphLLMError(f"slots: {self.slots}; expected 1 to {MAX_SLOTS}")
        if self.kv_dtype not in ("f32", "f16"):
            raise GraphLLMError(f"kv dtype: {self.kv_dtype}; expected f32 or f16")
        if self.dtype not in (None, "f32", "f16", "bf16"):
            raise GraphLLMError(f"dtype: {self.dtype}; expected one of f32 f16 bf16, not {'/'.join(get_args(DType))}")

    def steps(self, model_context: int) -> Steps:
        """What to trace for a model of that context. More than the model's own is allowed where asked for."""
        return Steps(self.context or min(model_context, DEFAULT_CONTEXT), self.slots, self.kv_dtype)

    def as_json(self) -> dict[str, Any]:
        """For the plan's record and for cache keys."""
        return asdict(self)
