"""The cpu target as the passes see it: what happens inside a kernel happens in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graphllm.codegen.product import PRODUCTS, product_of
from graphllm.ir.core import Operation, Value, Weight
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.target import Target, Template

CHUNK: Final = 256  # of attention.h: keys of a head that one thread deals with, where heads are cut
FEW_HEADS: Final = 8  # of all rows together: as many as threads there may be, or fewer
STACK: Final = 12  # of gemm_tile.h: rows that are arranged together for a blocked product
AFTER_PRODUCT: Final = frozenset(
    {"add", "split", "reshape", "rmsnorm", "rope", "quantize_rows", "kv_write", "silu", "mul"}
)
FEW: Final = 8  # rows of a step up to which weights are read once, row by row; beyond, a blocked product


def scratch_bytes(op: Operation) -> int:
    """Working memory that all threads share: the rows of a product of many, as gemm.h arranges them, and what chunks of
    keys give where attention has too few heads for all threads."""
    if op.name in ATTENTION:
        (rows, heads, d), (_, kv_heads, context, _) = op.operands[0].type.shape, op.operands[1].type.shape
        cut = rows * kv_heads <= FEW_HEADS and context > CHUNK
        return 4 * rows * heads * -(-context // CHUNK) * (-(-d // 16) * 16 + 2) if cut else 0
    if op.name not in PRODUCTS or op.operands[0].type.shape[0] <= FEW:
        return 0
    rows, depth = op.operands[0].type.shape
    parts = op.operands[1].type.shape[1] + depth // 1024 if op.name == "linear_int8" else 0  # each with scale and start
    return 4 * -(-rows // STACK) * STACK * (depth + 2 * parts)


def converts_weight(op: Operation) -> bool:
    """Whether the operation converts a stored weight: its reader does so as it goes."""
    return op.name in ("cast", "dequantize") and all(isinstance(v, Weight) for v in op.operands)


def fits_product(ops: Sequence[Operation], handed_out: Sequence[Value]) -> bool:
    """Whether these operations are one product with all that goes before and after it."""
    return product_of(ops, handed_out) is not None


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


CPU: Final = Target(
    name="cpu",
    templates=(
        Template(
            "linear",
            anchor="linear",
            before=frozenset({"rmsnorm", "take_rows", "cast", "dequantize"}),
            after=AFTER_PRODUCT,
            fits=fits_product,
        ),
        Template(
            "linear",
            anchor="linear_int8",
            before=frozenset({"rmsnorm", "take_rows", "cast", "quantize_rows"}),
            after=AFTER_PRODUCT,
            fits=fits_product,
        ),
        *(
            Template("attention", anchor=op, before=frozenset(), after=frozenset({"reshape"}))
            for op in sorted(ATTENTION)
        ),
        Template("embed", anchor="dequantize", before=frozenset({"embed"}), after=frozenset(), fits=fits_gather),
        Template(
            "embed", anchor="embed", before=frozenset({"dequantize"}), after=frozenset({"cast"}), fits=fits_gather
        ),
    ),
    stepwise=False,
    scratch=scratch_bytes,
    virtual=converts_weight,
    narrow_rows=FEW,
)
