"""What a kernel cannot do without at some position: bytes and operations, attention counted over what it sees."""

from __future__ import annotations

from graphllm.ir.core import Operation
from graphllm.ir.cost import kernel_bytes, op_flops
from graphllm.ir.ops.sequence import ATTENTION


def bytes_and_flops(kernel: Operation, seen: int, slots: int) -> tuple[int, int]:
    """(bytes, flops) of a kernel whose rows see ``seen`` positions of ``slots`` sequences."""
    moved, flops = kernel_bytes(kernel), 0
    for op in kernel.body.ops if kernel.body is not None else (kernel,):
        if op.name not in ATTENTION:
            flops += op_flops(op)
            continue
        caches = op.operands[1:-2]
        context = caches[0].type.shape[2]
        window = int(str(op.attrs.get("window", 0)))
        within = min(seen, window) if window else seen
        flops += op_flops(op) * within // context
        moved += sum(c.type.bytes // (c.type.shape[0] * context) for c in caches) * within * slots
    return moved, flops
