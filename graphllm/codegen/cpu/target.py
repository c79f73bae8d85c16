"""The cpu target as the passes see it: what happens inside a kernel happens in registers."""

from __future__ import annotations

from typing import Final

from graphllm.codegen.fits import ATTENTIONS, EXPERTS, GATHERS, converts_weight, fits_product, products
from graphllm.codegen.product import PRODUCTS
from graphllm.ir.core import Operation
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.target import Target

CHUNK: Final = 256  # of attention.h: keys of a head that one thread deals with, where heads are cut
FEW_HEADS: Final = 8  # of all rows together: as many as threads there may be, or fewer
STACK: Final = 12  # of gemm_tile.h: rows that are arranged together for a blocked product
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


CPU: Final = Target(
    name="cpu",
    templates=(*products(fits_product), *ATTENTIONS, *EXPERTS, *GATHERS),
    stepwise=False,
    scratch=scratch_bytes,
    virtual=converts_weight,
    narrow_rows=FEW,
)
