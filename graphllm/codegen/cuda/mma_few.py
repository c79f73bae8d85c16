"""Products of 2 … 32 rows on tensor cores: how a block shares its columns among warps, and its shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

from graphllm.codegen.cuda.mma import THREADS, WARPS, Stored, aligned
from graphllm.codegen.cuda.operands import declare_source, declare_weights, lead_of, live_rows
from graphllm.codegen.cuda.part import Part
from graphllm.codegen.cuda.target import ROOM, unit_of
from graphllm.codegen.finish import Finish
from graphllm.codegen.product import Product
from graphllm.codegen.text import KernelText

_SLAB_BYTES: Final = 36 << 10  # of staged activations: two blocks find room beside each other on every architecture


def mma_few(p: Product, how: Stored, text: KernelText, rows: int) -> Part:
    """The launch of a product of 2 … 32 rows."""
    n = p.columns // p.pieces
    shape = _shape(p, how, unit_of(p, max(4, _preferred(p.columns, rows) // p.pieces)), rows)
    kind, _ = declare_weights(p, text)
    declare_source(p, text)
    lead = lead_of(p, text)
    Finish(p, text, shape.unit).write()
    numbers = rows, shape.columns, shape.m, shape.split, shape.depth, shape.slab, how.terms
    text.line(f"using Shape = MmaFew<{', '.join(map(str, numbers))}>;")
    live = live_rows(p, text)
    whole = str(aligned(p, text)).lower()
    text.line(f"mma_few<Shape, {shape.unit}, {whole}>({kind}, {n}, {live}, source, {lead}, finish, room);")
    part = Part(f"{p.name}_mma", text, (ceil(n / shape.unit), 1), THREADS, shape.bytes, "mma_few.cuh")
    part.early = {id(w) for w in p.matrix}
    return part


def _preferred(columns: int, rows: int) -> int:
    """Columns for a block: more where there are more rows to stage, as long as all of the machine has work."""
    small, large = (2560, 10240) if rows <= 8 else (1280, 6144)
    return 16 if columns <= small else 32 if columns <= large else 64


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a block of mma_few.cuh shares its work; ``bytes`` of shared memory."""

    unit: int
    columns: int
    m: int
    split: int
    depth: int
    slab: int
    bytes: int


def _shape(p: Product, how: Stored, unit: int, rows: int) -> _Shape:
    columns = unit * p.pieces
    tiles = ceil(columns / 16)
    m = 2 if tiles % 2 == 0 or tiles > WARPS else 1
    split, depth = 1, 4 // m
    while 2 * split * ceil(tiles / m) <= WARPS and split * how.step < p.depth:
        split *= 2
    kept = 2 * _up(rows, 4) + 2 * rows * WARPS + _up(rows * columns, 4)  # floats, beside a slab
    each = 2 * how.terms * rows  # bytes of an element of k, in all rows
    most = min(_SLAB_BYTES, ROOM - 4 * kept) // each - 32
    while split * depth * how.step > most or (depth > 1 and split * depth * how.step >= 2 * p.depth):
        depth, split = (depth // 2, split) if depth > 1 else (depth, split // 2)
    turn = split * depth * how.step
    slab = turn * min(most // turn, ceil(p.depth / turn))
    staged, parts = each * (slab + 32) // 4, split * rows * columns * (split > 1)
    return _Shape(unit, columns, m, split, depth, slab, 4 * (kept + max(staged, parts)))


def _up(n: int, to: int) -> int:
    return -(-n // to) * to
