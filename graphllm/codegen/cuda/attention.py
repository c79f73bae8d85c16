"""The attention kernels."""

from __future__ import annotations

from graphllm.codegen.cuda.part import Part
from graphllm.codegen.cuda.target import ROOM, attention_rows, chunks_of, scratch_bytes
from graphllm.codegen.lone import number, only_f32
from graphllm.codegen.text import KernelText
from graphllm.errors import PlanError
from graphllm.ir.core import Operation

KEYS, WARPS = 32, 4  # of attention.cuh
MANY_THREADS = 256
MMA_WARPS = 4  # of 16 rows each
MOST_TOGETHER = 8  # query heads whose results a block holds in registers


def together(group: int) -> int:
    """Query heads, of those that share a head of keys, that a block deals with."""
    return max(n for n in range(1, MOST_TOGETHER + 1) if group % n == 0)


def write_attention(op: Operation, text: KernelText) -> Part:
    """The launch of an attention operation. Raises PlanError for what there is no code for."""
    q, *caches = op.operands[:-2]
    only_f32(op, text, q, op.result)
    text.placing(op)
    rows, heads, kv_heads, context, d = attention_rows(op)
    given = text.whole(q, "q")
    if len(caches) == 2:
        sides = [text.whole(v, role) for v, role in zip(caches, ("keys", "values"), strict=True)]
    else:
        roles = ("keys", "keys_scale", "values", "values_scale")
        at = [text.whole(v, role) for v, role in zip(caches, roles, strict=True)]
        sides = [f"Rounded{{{at[0]}, {at[1]}}}", f"Rounded{{{at[2]}, {at[3]}}}"]
    y = text.whole(op.result, "y", written=True)
    sizes = (("heads_q", heads), ("heads_kv", kv_heads), ("context", context))
    text.line(f"const Heads heads{{{', '.join(text.number(role, n) for role, n in sizes)}}};")
    arguments = f"step, {given}, {', '.join(sides)}, {y}, heads, {number(op.attrs['scale'])}, {op.attrs['window']}"
    cached = sum(kv_heads * v.type.numpy.itemsize * v.type.shape[3] for v in caches)
    if text.function.rows == "consecutive" and rows > 1:
        padded = -(-d // 32) * 32
        size = 128 * MMA_WARPS * padded // 2 + 2 * KEYS * (3 * padded + 8) + 64 * MMA_WARPS + 16
        whole = d % 8 == 0 and all(text.layouts.of(v).offset % 4 == 0 for v in (q, op.result))
        if caches[0].type.dtype in ("f16", "bf16") and whole and size <= ROOM:
            text.line(f"attention_mma<{d}, {MMA_WARPS}>({arguments}, room);")
            grid = heads, -(-rows // (16 * MMA_WARPS))
            return Part("attention_mma", text, grid, 32 * MMA_WARPS, size, "attention_mma.cuh", cached=cached)
        text.line(f"attention_many<{d}>({arguments}, room);")
        tile = 16 if d > 128 else 32
        floats = tile * (2 * d + 1 + KEYS + 3) + KEYS * (d + 1)
        grid = heads, -(-rows // tile)
        return Part("attention_many", text, grid, MANY_THREADS, 4 * floats, "attention_many.cuh", cached=cached)
    group, chunks, need = together(heads // kv_heads), chunks_of(rows, context), scratch_bytes(op)
    if need and (op.scratch is None or op.scratch[1] < need):
        what = f"{op.name} giving {op.result.ref}"
        raise PlanError(f"{what}: expected {need} bytes of scratch, got {op.scratch}")
    parts = "scratch, counts" if need else "nullptr, nullptr"
    text.line(f"attention<{d}, {group}>({arguments}, {text.number('chunk', chunks.keys)}, {parts}, room);")
    floats = group * -(-d // 4) * 4 + WARPS * group * (d + 2 + KEYS) + 1
    grid = rows * heads // group, chunks.most
    part = Part("attention", text, grid, 32 * WARPS, 4 * floats, "attention.cuh", cached=cached)
    if need:
        text.shared = op.scratch
        part.chunked, part.scratch, part.counts = True, True, 4 * grid[0]
    return part
