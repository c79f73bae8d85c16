"""What a person may choose when compiling; all of it is recorded in the plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from graphllm.compiler.targets import TargetName
from graphllm.errors import GraphLLMError
from graphllm.frontends.overrides import NO_OVERRIDES, Overrides
from graphllm.frontends.trace import KV_DTYPES, Steps
from graphllm.ir.types import DType
from graphllm.passes.quantize_int8 import Mode, Quantization
from graphllm.runtime.cuda.arch import check_archs
from graphllm.runtime.interface import MAX_CONTEXT, MAX_SLOTS

DEFAULT_CONTEXT = 4096
MAX_GROUP = 1 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """Compile options.

    Attributes:
        context: positions of the KV cache; 0 = the model's own, at most 4096.
        slots: sequences it holds at once.
        kv_dtype: f32, f16, bf16 or i8 (with a scale for each head and position), what it stores.
        dtype: what matrices are stored in (f32, f16, bf16); None keeps the checkpoint's.
        quantize: how matrices are rounded to int8, None to leave them floats. ``dtype`` is then that of kept ones.
        overrides: what the checkpoint does not say, or says wrong.
        target: what the plan is lowered for; it runs on others too.
        archs: architectures that it carries machine code for, where the target is cuda.
    """

    context: int = 0
    slots: int = 1
    kv_dtype: DType = "f32"
    dtype: DType | None = None
    quantize: Quantization | None = None
    overrides: Overrides = NO_OVERRIDES
    target: TargetName = "numpy"
    archs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _within(self.context, 0, MAX_CONTEXT):
            raise GraphLLMError(
                f"context: {self.context!r}; expected 1 to {MAX_CONTEXT} positions, or 0 for the default"
            )
        if not _within(self.slots, 1, MAX_SLOTS):
            raise GraphLLMError(f"slots: {self.slots!r}; expected 1 to {MAX_SLOTS}")
        if self.target not in get_args(TargetName):
            raise GraphLLMError(f"target: {self.target!r}; expected {', '.join(get_args(TargetName))}")
        if self.archs:
            check_archs(",".join(self.archs))
            if self.target != "cuda":
                raise GraphLLMError(f"arch: {', '.join(self.archs)}: expected target cuda with it, got {self.target}")
        if self.kv_dtype not in KV_DTYPES:
            raise GraphLLMError(f"kv dtype: {self.kv_dtype!r}; expected {', '.join(KV_DTYPES)}")
        if self.dtype not in (None, "f32", "f16", "bf16"):
            raise GraphLLMError(f"dtype: {self.dtype!r}; expected f32, f16 or bf16, or none to keep the checkpoint's")
        if self.quantize is not None:
            check_quantization(self.quantize, "quantize")

    def steps(self, model_context: int) -> Steps:
        """What to trace for a model of that context. More than the model's own is allowed where asked for."""
        return Steps(self.context or min(model_context, DEFAULT_CONTEXT), self.slots, self.kv_dtype)

    def as_json(self) -> dict[str, Any]:
        """For the plan's record and for cache keys."""
        told = asdict(self)
        return told if self.archs else {name: value for name, value in told.items() if name != "archs"}


def check_quantization(how: Quantization, where: str) -> None:
    """Raise GraphLLMError unless every field is in its range."""
    if how.mode not in get_args(Mode):
        raise GraphLLMError(f"{where}: mode {how.mode!r}; expected {' or '.join(get_args(Mode))}")
    if not _within(how.group, 0, MAX_GROUP):
        raise GraphLLMError(f"{where}: group {how.group!r}; expected 1 to {MAX_GROUP} elements, or 0 for a whole row")
    if how.scale not in ("f16", "f32"):
        raise GraphLLMError(f"{where}: scale {how.scale!r}; expected f16 or f32")
    if any(not pattern for pattern in how.keep):
        raise GraphLLMError(f"{where}: keep: an empty pattern; expected a part of a tensor's name, as lm_head")


def _within(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high
