"""The NumPy target as the passes see it: kernels are groups of calls, every inner value lives in the arena."""

from __future__ import annotations

from math import prod
from typing import Final

from graphllm.codegen.kernels.numpy.attention import scratch_floats
from graphllm.ir.core import Operation, Weight
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.target import Target, Template

F32: Final = 4  # bytes
TILED: Final = ("linear", "expert_linear")  # operations whose matrix may be converted as it is read
AFTER_PRODUCT: Final = frozenset(
    {"add", "split", "reshape", "rmsnorm", "rope", "quantize_rows", "kv_write", "silu", "mul"}
)


def scratch_bytes(op: Operation) -> int:
    """Working memory of an operation: sums of squares of many rows, angles, scores of attention, widened rows."""
    shape = op.results[0].type.shape
    match op.name:
        case "rmsnorm" if prod(shape[:-1]) > 1:
            return F32 * prod(shape[:-1])
        case "rotation":
            return F32 * prod(shape[:-1])
        case "attention" | "attention_int8":
            cache = op.operands[1].type
            return F32 * scratch_floats(shape, cache.shape, cache.dtype != "f32")
        case "linear_int8":  # its activations, widened
            return F32 * op.operands[0].type.numel
        case _:
            return 0


def reads_weight_only(op: Operation) -> bool:
    """Whether the operation converts a stored weight: never materialised, its reader expands or tiles it."""
    return op.name in ("cast", "dequantize") and all(isinstance(v, Weight) for v in op.operands)


NUMPY: Final = Target(
    name="numpy",
    templates=(
        Template(
            "linear",
            anchor="linear",
            before=frozenset({"rmsnorm", "take_rows", "cast", "dequantize"}),
            after=AFTER_PRODUCT,
        ),
        Template(
            "linear",
            anchor="linear_int8",
            before=frozenset({"rmsnorm", "take_rows", "quantize_rows"}),
            after=AFTER_PRODUCT,
        ),
        *(
            Template("attention", anchor=op, before=frozenset(), after=frozenset({"reshape"}))
            for op in sorted(ATTENTION)
        ),
        Template("expert_linear", anchor="expert_linear", before=frozenset({"cast", "dequantize"}), after=frozenset()),
        Template("embed", anchor="embed", before=frozenset(), after=frozenset({"cast", "dequantize"})),
    ),
    stepwise=True,
    scratch=scratch_bytes,
    virtual=reads_weight_only,
)
