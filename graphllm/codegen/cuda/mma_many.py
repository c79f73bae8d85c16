"""Products of many rows on tensor cores: a launch that stages rows, and one that multiplies tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

from graphllm.codegen.cuda.mma import THREADS, WARPS, Stored, aligned
from graphllm.codegen.cuda.operands import declare_source, declare_weights, lead_of, live_rows
from graphllm.codegen.cuda.part import Part
from graphllm.codegen.cuda.target import scratch_bytes, unit_of
from graphllm.codegen.finish import Finish
from graphllm.codegen.product import Product
from graphllm.codegen.text import KernelText
from graphllm.errors import PlanError

_PANEL_BYTES: Final = 48 << 10  # of panels of two blocks, which find room beside each other on every architecture
_ENOUGH: Final = 120  # blocks that keep a large machine busy


def fits_many(p: Product, how: Stored) -> bool:
    """Whether rows of weights can be copied 16 bytes at a time, and a warp's sums held in registers."""
    return p.depth % (16 if how.grouped else 8) == 0 and _shape(p, how, 33).m <= 4


def mma_many(p: Product, how: Stored, new_text: Callable[[], KernelText], rows: int) -> list[Part]:
    """The launches of a product of more rows: one says them in terms, in scratch memory, and one multiplies."""
    need, scratch = scratch_bytes(p.anchor), p.anchor.scratch
    if scratch is None or scratch[1] < need:
        what = f"{p.anchor.name} giving {p.anchor.result.ref}"
        raise PlanError(f"{what}: expected {need} bytes of scratch, got {scratch}")
    element = "bf16" if how.bf16 else "f16"

    text = new_text()
    text.shared = scratch
    declare_source(p, text)
    lead = lead_of(p, text)
    text.line("let_consumers_start();")
    text.line("wait_for_producers();")
    text.line("const int t = blockIdx.x;")
    text.line(f"if (t >= {live_rows(p, text)}) return;")
    _declare_staged(p, how, text, rows)
    numbers = f"{element}, {how.terms}, {how.per}, {str(aligned(p, text)).lower()}"
    text.line(f"stage_terms<{numbers}>(source(t), {lead}, t, {text.number('depth', p.depth)}, staged, room);")
    stem = "stage_norm" if any(op.name == "rmsnorm" for op in p.lead) else "stage_rows"
    first = Part(stem, text, (rows, 1), THREADS, 8 * WARPS, "mma_many.cuh", scratch=True)

    text = new_text()
    text.shared = scratch
    shape = _shape(p, how, rows)
    n = p.columns // p.pieces
    kind, _ = declare_weights(p, text)
    Finish(p, text, shape.unit).write()
    _declare_staged(p, how, text, rows)
    numbers = f"{shape.columns}, {shape.rows}, {shape.m}, {shape.stages}, {how.terms}"
    text.line(f"using Shape = MmaMany<{numbers}>;")
    live = live_rows(p, text)
    text.line(f"mma_many<Shape, {shape.unit}, {shape.slice}>({kind}, {n}, {live}, staged, finish, room);")
    grid = ceil(rows / shape.rows), ceil(n / shape.unit)  # rows first: weights are read once
    second = Part(f"{p.name}_mma_tiles", text, grid, THREADS, shape.bytes, "mma_many.cuh", scratch=True)
    second.early = {id(w) for w in p.matrix}
    return [first, second]


def _declare_staged(p: Product, how: Stored, text: KernelText, rows: int) -> None:
    """A variable for the staged rows, each a whole number of panels long."""
    length = f"up({text.number('depth', p.depth)}, {how.panel})"
    text.line(f"const Staged staged{{scratch, {text.number('staged_rows', rows)}, {length}}};")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a block of mma_many.cuh shares its work; rows that are finished together; bytes of shared memory."""

    unit: int
    columns: int
    rows: int
    m: int
    stages: int
    slice: int
    bytes: int


def _shape(p: Product, how: Stored, rows: int) -> _Shape:
    """The largest tile that registers hold, or a smaller one where there would be too few for all of the machine."""
    sizes = [(128, 128), (128, 64), (64, 64)] if how.terms == 1 else [(128, 64), (64, 64)]
    shapes = [_tile(p, how, unit_of(p, max(4, columns // p.pieces)), tile_rows) for columns, tile_rows in sizes]
    busy = [s for s in shapes if s.rows < 2 * rows and _blocks(p, s, rows) >= _ENOUGH]
    return (busy or shapes[-1:])[0]


def _blocks(p: Product, shape: _Shape, rows: int) -> int:
    return ceil(p.columns / shape.columns) * ceil(rows / shape.rows)


def _tile(p: Product, how: Stored, unit: int, rows: int) -> _Shape:
    columns = unit * p.pieces
    down = WARPS // (rows // 32)
    m = ceil(ceil(columns / 16) / down)
    stage = 64 * (16 * m * down + (2 if how.grouped else 1) * how.terms * rows)
    stages = 3 if 3 * stage <= _PANEL_BYTES else 2
    done = min(rows, 64 if 256 * (columns + 4) <= stages * stage else 32)
    return _Shape(unit, columns, rows, m, stages, done, max(stages * stage, 4 * done * (columns + 4)))
