"""Kernels around a matrix product: how blocks share the work."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Final

from graphllm.codegen.cuda.mma import stored
from graphllm.codegen.cuda.mma_few import mma_few
from graphllm.codegen.cuda.mma_many import fits_many, mma_many
from graphllm.codegen.cuda.operands import declare_source, declare_weights, grouped, lead_of, live_rows
from graphllm.codegen.cuda.part import Part
from graphllm.codegen.cuda.target import MOST_FEW, is_few, scratch_bytes, unit_of
from graphllm.codegen.finish import Finish
from graphllm.codegen.product import Product
from graphllm.codegen.text import KernelText
from graphllm.errors import PlanError

WARPS: Final = 8  # of few.cuh
THREADS: Final = 32 * WARPS
ROOM_FLOATS: Final = 32  # BLOCK_ROOM of team.cuh
SHARED_CHUNKS: Final = 64  # of a row that two warps may share
TILE_T, TILE_K = 32, 16  # of tiles.cuh


def write_product(p: Product, new_text: Callable[[], KernelText]) -> list[Part]:
    """The launches that compute a product and all around it."""
    rows = p.anchor.result.type.shape[0]
    how = stored(p)
    if how is not None and 1 < rows <= MOST_FEW:
        return [mma_few(p, how, new_text(), rows)]
    if how is not None and rows > MOST_FEW and fits_many(p, how):
        return mma_many(p, how, new_text, rows)
    if is_few(p.anchor):
        return [_few(p, new_text(), rows)]
    return _tiles(p, new_text, rows)


def _preferred(columns: int) -> int:
    """Columns for a block: few enough that all of the machine has work, many enough that rows are not staged often."""
    return 8 if columns <= 1024 else 16 if columns <= 4096 else 32 if columns <= 32768 else 64


def _few(p: Product, text: KernelText, rows: int) -> Part:
    pieces = p.pieces
    n = p.columns // pieces
    unit = unit_of(p, max(4, _preferred(n) // pieces))
    fixed = grouped(p)
    kind, per = declare_weights(p, text, fixed=fixed)
    columns, chunks = unit * pieces, ceil(p.depth / per)
    dynamic = p.anchor.name == "linear_int8"
    # Two rows of weights a warp: enough loads are on their way. Where columns are few, warps share a row for that.
    each = 2 if columns >= 2 * WARPS or rows >= 4 or (chunks >= SHARED_CHUNKS and not dynamic) else 1
    split = 1
    while not dynamic and split < WARPS and columns * split * 2 <= WARPS * each and chunks >= SHARED_CHUNKS * split:
        split *= 2
    depth = min(4 if rows == 1 and not dynamic else 2, ceil(chunks / (32 * split)))
    declare_source(p, text, fixed=fixed)
    lead = lead_of(p, text)
    Finish(p, text, unit).write()
    live = live_rows(p, text)
    if dynamic:
        groups = p.anchor.operands[1].type.shape[1]
        row = _up(p.depth, 16) + _up(4 * groups, 16)
        floats = _up(p.depth, 16) + rows * row // 4 + ROOM_FLOATS + rows * columns
        call = f"integer_few<{rows}, {unit}, {pieces}, {each}, {depth}>"
    else:
        x = rows * _up(p.depth, per)
        floats = x + _up(rows, 4) + ROOM_FLOATS + rows * columns * (split + 1 if split > 1 else 1)
        rounding = ", true" if p.rounded else ""
        call = f"linear_few<{rows}, {unit}, {pieces}, {each}, {split}, {depth}{rounding}>"
    text.line(f"{call}({kind}, {n}, {live}, source, {lead}, finish, room);")
    header = "integer.cuh" if dynamic else "few.cuh"
    part = Part(p.name, text, (ceil(n / unit), 1), THREADS, 4 * floats, header)
    part.early = {id(w) for w in p.matrix}
    part.resident = 2 if rows > 1 else 0  # said nothing, ptxas would rather spill than have fewer than four
    return part


def _tiles(p: Product, new_text: Callable[[], KernelText], rows: int) -> list[Part]:
    parts: list[Part] = []
    pieces = p.pieces
    n = p.columns // pieces
    unit = unit_of(p, 64 // pieces)
    need, scratch = scratch_bytes(p.anchor), p.anchor.scratch
    dynamic = p.anchor.name == "linear_int8"
    staged = dynamic or p.rounded or any(op.name == "rmsnorm" for op in p.lead)
    if staged:
        if scratch is None or scratch[1] < need:
            what = f"{p.anchor.name} giving {p.anchor.result.ref}"
            raise PlanError(f"{what}: expected {need} bytes of scratch, got {scratch}")
        text = new_text()
        text.shared = scratch
        declare_source(p, text)
        lead = lead_of(p, text)
        text.line("let_consumers_start();")
        text.line("wait_for_producers();")
        text.line("const int t = blockIdx.x;")
        text.line(f"if (t >= {live_rows(p, text)}) return;")
        call = f"stage_integers<{p.anchor.attrs['group']}>" if dynamic else f"stage_row<{str(p.rounded).lower()}>"
        depth = text.number("depth", p.depth)
        text.line(f"{call}(source(t), {lead}, {depth}, scratch + (long long)t * {depth}, room);")
        floats = ROOM_FLOATS + (p.depth if dynamic else 0)
        parts.append(Part(f"stage_{_lead_name(p)}", text, (rows, 1), THREADS, 4 * floats, "tiles.cuh", scratch=True))
    text = new_text()
    kind, _ = declare_weights(p, text)
    if staged:
        text.shared = scratch
        row = f"scratch + (long long)t * {text.number('depth', p.depth)}"
        text.line(f"const auto source = [&](int t) {{ return {row}; }};")
    else:
        declare_source(p, text)
    Finish(p, text, unit).write()
    text.line(f"linear_tiles<{unit}, {pieces}>({kind}, {n}, {live_rows(p, text)}, source, finish, room);")
    columns = unit * pieces
    floats = TILE_K * (columns + 1 + TILE_T + 1) + TILE_T * columns
    grid = ceil(n / unit), ceil(rows / TILE_T)
    parts.append(Part(f"{p.name}_tiles", text, grid, THREADS, 4 * floats, "tiles.cuh", scratch=staged))
    return parts


def _lead_name(p: Product) -> str:
    words = ["norm"] * any(op.name == "rmsnorm" for op in p.lead)
    words += ["int8"] * (p.anchor.name == "linear_int8") + ["bf16"] * p.rounded
    return "_".join(words)


def _up(n: int, to: int) -> int:
    return -(-n // to) * to
