"""What a product reads, as text: how weights are stored, where activations come from, what is done to them first."""

from __future__ import annotations

from typing import Final

from graphllm.codegen.lone import number
from graphllm.codegen.product import Cached, Product, Rounded
from graphllm.codegen.text import C_TYPES, KernelText
from graphllm.ir.types import DType

_BYTES: Final[dict[DType, int]] = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i32": 4}


def live_rows(p: Product, text: KernelText) -> str:
    """How many rows there are to compute, as an expression."""
    if any(isinstance(b.end, Cached | Rounded) for b in p.branches):
        return "step.live"  # whatever a damaged plan makes its rows of: others have no position
    return text.count(p.rows) if p.taken is None else str(p.anchor.result.type.shape[0])


def declare_weights(p: Product, text: KernelText) -> tuple[str, int]:
    """Declares the weights; their variable, and how many elements a chunk of 16 bytes has."""
    k = p.depth
    if p.anchor.name == "linear_int8" or (p.conversion is not None and p.conversion.name == "dequantize"):
        q, scale = p.matrix
        group = (p.conversion or p.anchor).attrs["group"]
        flat, whole = len(scale.type.shape) == 1, str(k % 16 == 0).lower()
        kind = C_TYPES[scale.type.dtype]
        if p.conversion is None:
            kind = f"Dynamic<{kind}, {group}, {whole}>"
        else:
            kind = f"Groups<{kind}, {group}, {str(flat).lower()}, {whole}>"
        text.line(f"const {kind} weights{{{text.whole(q, 'q')}, {text.whole(scale, 'scale')}, {k}}};")
        return "weights", 16
    w = p.conversion.operands[0] if p.conversion is not None else p.anchor.operands[1]
    size = _BYTES[w.type.dtype]
    whole = str(k * size % 16 == 0).lower()
    text.line(f"const Dense<{C_TYPES[w.type.dtype]}, {whole}> weights{{{text.whole(w, 'w')}, {k}}};")
    return "weights", 16 // size


def declare_source(p: Product, text: KernelText) -> None:
    """A lambda that gives the address of activation row t."""
    index = "t" if p.taken is None else f"clip({text.given(p.taken, 't')}, {text.count(p.rows)})"
    text.line(f"const auto source = [&](int t) {{ return {text.row(p.rows, 'x', index)}; }};")


def lead_of(p: Product, text: KernelText) -> str:
    """What is done to a row before the product, as an expression."""
    for op in p.lead:
        if op.name == "rmsnorm":
            return f"Norm{{{text.whole(op.operands[1], 'gain')}, {number(op.attrs['eps'])}}}"
    return "AsTheyAre{}"
