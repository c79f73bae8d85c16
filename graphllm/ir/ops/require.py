"""The sentences in which ``infer`` functions refuse operands."""

from __future__ import annotations

from graphllm.errors import VerifyError
from graphllm.ir.types import FLOATS, TensorType


def that(ok: bool, op: str, what: str, expected: str, got: object) -> None:
    """Raise VerifyError ``op: what; expected X, got Y`` unless ``ok``."""
    if not ok:
        raise VerifyError(f"{op}: {what}; expected {expected}, got {got}")


def rank(op: str, what: str, type: TensorType, n: int) -> None:
    that(len(type.shape) == n, op, what, f"{n} dimension{'s' if n != 1 else ''}", type)


def some_dimension(op: str, what: str, type: TensorType) -> None:
    that(len(type.shape) > 0, op, what, "at least one dimension", type)


def is_float(op: str, what: str, type: TensorType) -> None:
    that(type.dtype in FLOATS, op, what, "f32, f16 or bf16", type)


def is_i32(op: str, what: str, type: TensorType) -> None:
    that(type.dtype == "i32", op, what, "i32", type)


def same_dtype(op: str, a: TensorType, b: TensorType) -> None:
    that(a.dtype == b.dtype, op, "operands", f"one dtype (cast makes it so), {a.dtype}", b)
