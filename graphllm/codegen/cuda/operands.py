"""What a product reads, as text: how weights are stored, where activations come from, what is done to them first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graphllm.codegen.lone import number
from graphllm.codegen.product import Cached, Product, Rounded, Stored
from graphllm.codegen.text import C_TYPES, KernelText
from graphllm.ir.core import Operation, Value
from graphllm.ir.types import DType

_BYTES: Final[dict[DType, int]] = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "i32": 4}


def live_rows(p: Product, text: KernelText) -> str:
    """How many rows there are to compute, as an expression."""
    if p.anchor.result.type.shape[0] == 1:
        return "1"  # nobody asks for a step of no row
    if any(isinstance(b.end, Cached | Rounded) for b in p.branches):
        return "step.live"  # whatever a damaged plan makes its rows of: others have no position
    return text.count(p.rows) if p.taken is None else str(p.anchor.result.type.shape[0])


def declare_weights(p: Product, text: KernelText, *, fixed: bool = False) -> tuple[str, int]:
    """Declares the weights; their variable, and how many elements a chunk of 16 bytes has.

    ``fixed``: K is part of the text, not a number that comes with the launch.
    """
    k, depth = p.depth, depth_of(p, text, fixed=fixed)
    if p.anchor.name == "linear_int8":
        q, scale = p.matrix
        kind = f"Dynamic<{C_TYPES[scale.type.dtype]}, {p.anchor.attrs['group']}, {_whole(k, 1)}>"
        text.line(f"const {kind} weights{{{text.whole(q, 'q')}, {text.whole(scale, 'scale')}, {depth}}};")
        return "weights", 16
    stored = p.conversion.operands if p.conversion is not None else p.anchor.operands[1:2]
    return declare_matrix(stored, p.conversion, k, depth, text)


def declare_matrix(
    stored: Sequence[Value], conversion: Operation | None, k: int, depth: str, text: KernelText
) -> tuple[str, int]:
    """Declares a matrix of rows of K: its parts as they are stored, what converts them if anything does, K in the text.

    Its variable, and how many elements a chunk of 16 bytes has.
    """
    if conversion is not None and conversion.name == "dequantize":
        q, scale = stored
        flat = str(len(scale.type.shape) == 1).lower()
        kind = f"Groups<{C_TYPES[scale.type.dtype]}, {conversion.attrs['group']}, {flat}, {_whole(k, 1)}>"
        text.line(f"const {kind} weights{{{text.whole(q, 'q')}, {text.whole(scale, 'scale')}, {depth}}};")
        return "weights", 16
    size = _BYTES[stored[0].type.dtype]
    kind = f"Dense<{C_TYPES[stored[0].type.dtype]}, {_whole(k, size)}>"
    text.line(f"const {kind} weights{{{text.whole(stored[0], 'w')}, {depth}}};")
    return "weights", 16 // size


def _whole(k: int, size: int) -> str:
    """Whether rows of k elements are whole chunks, as C++."""
    return str(k * size % 16 == 0).lower()


def grouped(p: Product) -> bool:
    """Whether weights have scales that f32 activations meet: with addresses of both, registers are too few for a K that
    is not known."""
    return p.conversion is not None and p.conversion.name == "dequantize"


def depth_of(p: Product, text: KernelText, *, fixed: bool = False) -> str:
    """K, as an expression."""
    return str(p.depth) if fixed else text.number("depth", p.depth)


def declare_source(p: Product, text: KernelText, *, fixed: bool = False) -> None:
    """A lambda that gives the address of activation row t; ``fixed`` as for ``declare_weights``."""
    index = "t" if p.taken is None else f"clip({text.given(p.taken, 't')}, {text.count(p.rows)})"
    if p.anchor.result.type.shape[0] == 1 and of_logits(p, text):  # of a prompt as of a single row
        index = f"({text.number('taken', p.taken is not None)} ? clip(step.rows[t], {text.count(p.rows)}) : t)"
    layout = text.layouts.of(p.rows)
    if layout.offset == 0 and layout.shape[1:] == (p.depth,) and layout.strides == (p.depth, 1):
        place = f"{text.pointer(p.rows, 'x')} + {index} * {depth_of(p, text, fixed=fixed)}"
    else:
        place = text.row(p.rows, "x", index)
    text.line(f"const auto source = [&](int t) {{ return {place}; }};")


def of_logits(p: Product, text: KernelText) -> bool:
    """Whether the product gives what its function does."""
    ends = [b.end.value for b in p.branches if isinstance(b.end, Stored)]
    return any(end is result for end in ends for result in text.function.results)


def lead_of(p: Product, text: KernelText) -> str:
    """What is done to a row before the product, as an expression."""
    for op in p.lead:
        if op.name == "rmsnorm":
            return f"Norm{{{text.whole(op.operands[1], 'gain')}, {number(op.attrs['eps'])}}}"
    return "AsTheyAre{}"
