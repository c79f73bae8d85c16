"""The product of a mixture of experts: how blocks share the matrices that rows chose."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Final

from graphllm.codegen.cuda.operands import declare_matrix
from graphllm.codegen.cuda.part import Part
from graphllm.codegen.lone import only_f32
from graphllm.codegen.text import KernelText
from graphllm.ir.core import Operation

WARPS: Final = 8  # of few.cuh
THREADS: Final = 32 * WARPS
ROOM_FLOATS: Final = 32  # BLOCK_ROOM of team.cuh
_EACH, _DEPTH = 2, 2  # rows of weights of a warp at a time, and loads of each on their way
_BYTES: Final = 44 << 10  # of shared memory: what is beyond leaves no room for a second block


def write_expert_linear(ops: Sequence[Operation], text: KernelText) -> Part:
    """The launch of a product with experts' matrices, which a conversion may lead into."""
    op = ops[-1]
    x, w, ids = op.operands
    only_f32(op, text, x, op.result)
    experts = int(str(op.attrs["experts"]))
    (rows, used), k, n = ids.type.shape, w.type.shape[1], op.result.type.shape[2]
    conversion = ops[0] if len(ops) > 1 else None
    matrix = (w,) if conversion is None else conversion.operands
    kind, per = declare_matrix(matrix, conversion, k, text.number("depth", k), text)
    own = len(x.type.shape) == 3
    with text.block("const auto source = [&](int p)", "};"):
        text.line(f"return {text.row(x, 'x', 'p' if own else f'(p / {used})')};")
    sizes = f"{text.number('columns', n)}, {experts}, {used}"
    given, live = text.whole(ids, "ids"), text.count(op.result)
    y = text.whole(op.result, "y", written=True)
    unit = 16 if n <= 4096 else 32
    chunks, split = ceil(k / per), 1
    while unit * split * 2 <= WARPS * _EACH and chunks >= 64 * split:
        split *= 2
    depth = min(_DEPTH, ceil(chunks / (32 * split)))
    numbers = f"{unit}, {_EACH}, {split}, {depth}"
    pairs = rows * used
    if pairs <= experts:  # hardly two rows with the same expert
        floats = _floats(1, unit, split, k, per)
        text.line(f"expert_pairs<{numbers}>({kind}, {sizes}, {given}, {live}, source, {y}, room);")
        grid = ceil(n / unit), pairs
    else:
        lists = WARPS + -(-pairs // 4) * 4
        fitting = [t for t in (8, 4, 2) if 4 * (lists + _floats(t, unit, split, k, per)) <= _BYTES]
        together = fitting[0] if fitting else 1
        floats = lists + _floats(together, unit, split, k, per)
        text.line(f"expert_rows<{together}, {numbers}>({kind}, {sizes}, {pairs}, {given}, {live}, source, {y}, room);")
        grid = ceil(n / unit), experts
    part = Part("expert_linear", text, grid, THREADS, 4 * floats, "experts.cuh")
    part.moved = {id(v): v.type.bytes // experts * min(pairs, experts) for v in matrix}
    return part


def _floats(rows: int, unit: int, split: int, k: int, per: int) -> int:
    x = rows * -(-k // per) * per
    return x + -(-rows // 4) * 4 + ROOM_FLOATS + rows * unit * (split + 1 if split > 1 else 1)
