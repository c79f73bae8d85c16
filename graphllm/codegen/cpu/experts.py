"""The product of a mixture of experts: with the matrices that rows chose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from graphllm.codegen.cpu.text import CpuText
from graphllm.codegen.lone import only_f32
from graphllm.codegen.text import C_TYPES
from graphllm.ir.core import Operation

UNIT: Final = 32  # columns that are computed together


def write_expert_linear(ops: Sequence[Operation], text: CpuText) -> str:
    """Add the lines of a product with experts' matrices, which a conversion may lead into; its name."""
    op = ops[-1]
    x, w, ids = op.operands
    conversion = ops[0] if len(ops) > 1 else None
    only_f32(op, text, x, op.result)
    used, k, experts = ids.type.shape[1], w.type.shape[1], op.attrs["experts"]
    n = op.result.type.shape[2]
    if conversion is not None and conversion.name == "dequantize":
        q, scale = conversion.operands
        stored, group = C_TYPES[scale.type.dtype], conversion.attrs["group"]
        flat = len(scale.type.shape) == 1
        kind = f"Flat<{stored}>" if flat else f"Groups<{stored}, {group}>"
        fields = f"{text.whole(q, 'q')}, {text.whole(scale, 'scale')}, {k}{f', {group}' if flat else ''}"
    else:
        matrix = w if conversion is None else conversion.operands[0]
        kind, fields = f"Dense<{C_TYPES[matrix.type.dtype]}>", f"{text.whole(matrix, 'w')}, {k}"
    text.line(f"const {kind} weights{{{fields}}};")
    own = len(x.type.shape) == 3
    with text.block("const auto source = [&](int t, int u) -> const float*", "};"):
        text.line(f"return {text.row(x, 'x', f'(t * {used} + u)' if own else 't')};")
    with text.block("const auto out = [&](int t, int u) -> float*", "};"):
        text.line(f"return {text.row(op.result, 'y', f'(t * {used} + u)', written=True)};")
    counts = f"{text.count(op.result)}, {used}, {experts}, {n}, {UNIT}"
    text.line(f"expert_linear(step, weights, {counts}, {text.whole(ids, 'ids')}, source, out);")
    text.private.append(f"expert_bytes({kind}::row_bytes({k}), {UNIT}, {ids.type.numel})")
    return "expert_linear"
