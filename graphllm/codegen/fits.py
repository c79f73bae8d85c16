"""What the C++ and CUDA generators can hold in one kernel: their templates, and what these ask of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graphllm.codegen.product_reader import product_of
from graphllm.ir.core import Operation, Value, Weight
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.target import Fits, Template

_AFTER_PRODUCT: Final = frozenset(
    {"add", "split", "reshape", "rmsnorm", "rope", "quantize_rows", "kv_write", "silu", "mul"}
)


def converts_weight(op: Operation) -> bool:
    """Whether the operation converts a stored weight: its reader does so as it goes."""
    return op.name in ("cast", "dequantize") and all(isinstance(v, Weight) for v in op.operands)


def fits_product(ops: Sequence[Operation], handed_out: Sequence[Value]) -> bool:
    """Whether these operations are one product with all that goes before and after it."""
    return product_of(ops, handed_out) is not None


def fits_experts(ops: Sequence[Operation], handed_out: Sequence[Value]) -> bool:
    """Whether these operations are one product with experts' matrices, with the conversion of these or without."""
    *lead, op = ops
    if op.name != "expert_linear" or [id(v) for v in handed_out] != [id(op.result)] or len(lead) > 1:
        return False
    return not lead or (converts_weight(lead[0]) and op.operands[1] is lead[0].result)


def fits_gather(ops: Sequence[Operation], handed_out: Sequence[Value]) -> bool:
    """Whether these operations gather rows of one table and widen them."""
    names = [op.name for op in ops]
    last = ops[-1].results[0]
    if [id(v) for v in handed_out] != [id(last)]:
        return False
    match names:
        case ["embed"]:
            return True
        case ["embed", "cast"]:
            return ops[1].operands[0] is ops[0].result and last.type.dtype == "f32"
        case ["dequantize", "embed"]:  # groups that run over the whole table
            return converts_weight(ops[0]) and ops[1].operands[1] is ops[0].result
        case ["embed", "embed", "dequantize"]:
            q, scale = ops[2].operands
            made = {id(op.result): op for op in ops[:2]}
            return (
                {id(q), id(scale)} == made.keys()
                and ops[0].operands[0] is ops[1].operands[0]
                and len(scale.type.shape) == 2
            )
        case _:
            return False


def products(fits: Fits) -> tuple[Template, ...]:
    """Kernels around a matrix product, of floats and of integers, for whoever can hold groups that ``fit``."""
    lead = frozenset({"rmsnorm", "take_rows", "cast"})
    return (
        Template("linear", "linear", lead | {"dequantize"}, _AFTER_PRODUCT, fits),
        Template("linear", "linear_int8", lead | {"quantize_rows"}, _AFTER_PRODUCT, fits),
    )


ATTENTIONS: Final = tuple(Template("attention", op, frozenset(), frozenset({"reshape"})) for op in sorted(ATTENTION))
EXPERTS: Final = (
    Template("expert_linear", "expert_linear", frozenset({"cast", "dequantize"}), frozenset(), fits_experts),
)
GATHERS: Final = (
    Template("embed", "dequantize", frozenset({"embed"}), frozenset(), fits_gather),
    Template("embed", "embed", frozenset({"dequantize"}), frozenset({"cast"}), fits_gather),
)
