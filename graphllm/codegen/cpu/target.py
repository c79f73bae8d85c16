"""The cpu target as the passes see it: what happens inside a kernel happens in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graphllm.codegen.cpu.product import product_of
from graphllm.ir.core import Operation, Value, Weight
from graphllm.ir.target import Target, Template

DEPTH: Final = 256  # of gemm.h: elements of a row that are multiplied at a time
FEW: Final = 8  # rows of a step up to which weights are read once, row by row; beyond, a blocked product


def scratch_bytes(op: Operation) -> int:
    """Working memory that all threads share: the rows of a product of many, as gemm.h arranges them."""
    rows, depth = op.operands[0].type.shape if op.name == "linear" else (0, 0)
    return 4 * rows * -(-depth // DEPTH) * DEPTH if rows > FEW else 0


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
            after=frozenset({"add", "split", "reshape", "rmsnorm", "rope", "kv_write", "silu", "mul"}),
            fits=fits_product,
        ),
        Template(
            "linear",
            anchor="linear_int8",
            before=frozenset({"rmsnorm", "take_rows", "cast", "quantize_rows"}),
            after=frozenset({"add", "split", "reshape", "rmsnorm", "rope", "kv_write", "silu", "mul"}),
            fits=fits_product,
        ),
        Template("attention", anchor="attention", before=frozenset(), after=frozenset({"reshape"})),
        Template("embed", anchor="dequantize", before=frozenset({"embed"}), after=frozenset(), fits=fits_gather),
        Template(
            "embed", anchor="embed", before=frozenset({"dequantize"}), after=frozenset({"cast"}), fits=fits_gather
        ),
    ),
    stepwise=False,
    scratch=scratch_bytes,
    virtual=converts_weight,
)
