"""Products on tensor cores: which there are, and how blocks and warps share them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final

from graphllm.codegen.cuda.operands import declare_source, declare_weights, lead_of, live_rows
from graphllm.codegen.cuda.part import Part
from graphllm.codegen.cuda.target import ROOM, scratch_bytes, unit_of
from graphllm.codegen.finish import Finish
from graphllm.codegen.product import Product
from graphllm.codegen.text import KernelText
from graphllm.errors import PlanError

WARPS: Final = 8  # of few.cuh
THREADS: Final = 32 * WARPS
MOST_FEW: Final = 32  # rows whose weights go straight from memory to registers
SLAB_BYTES: Final = 36 << 10  # of staged activations: two blocks find room beside each other on every architecture

MANY_BYTES: Final = 48 << 10  # of panels: the same
ENOUGH: Final = 120  # blocks that keep a large machine busy


@dataclass(frozen=True, slots=True)
class Stored:
    """A matrix as tensor cores take it.

    Attributes:
        per: elements of a row that a lane loads at once.
        terms: of each activation.
        bf16: whether fragments are of bf16, or else of f16.
        grouped: whether groups of elements have scales.
    """

    per: int
    terms: int
    bf16: bool = False
    grouped: bool = False

    @property
    def step(self) -> int:
        """Elements of a row that the lanes of a warp load at once."""
        return 4 * self.per

    @property
    def panel(self) -> int:
        """Elements of a row in 64 bytes."""
        return 64 if self.grouped else 32


def stored(p: Product) -> Stored | None:
    """How a product's matrix is taken; None where there is no exact way."""
    if p.anchor.name == "linear_int8":
        return None
    if p.conversion is not None and p.conversion.name == "dequantize":
        group, (_, scale) = p.conversion.attrs["group"], p.matrix
        if not isinstance(group, int) or group % 32 or (len(scale.type.shape) == 1 and p.depth % group):
            return None
        return Stored(8 if group % 64 else 16, 2, grouped=True)
    if p.matrix[0].type.dtype not in ("f16", "bf16"):
        return None
    return Stored(8, 1 if p.rounded else 2, bf16=p.matrix[0].type.dtype == "bf16")


def mma_few(p: Product, how: Stored, text: KernelText, rows: int) -> Part:
    """The launch of a product of 2 … 32 rows."""
    n = p.columns // p.pieces
    shape = _few_shape(p, how, unit_of(p, max(4, _preferred(p.columns, rows) // p.pieces)), rows)
    kind, _ = declare_weights(p, text)
    declare_source(p, text)
    lead = lead_of(p, text)
    Finish(p, text, shape.unit).write()
    numbers = rows, shape.columns, shape.m, shape.split, shape.depth, shape.slab, how.terms
    text.line(f"using Shape = MmaFew<{', '.join(map(str, numbers))}>;")
    live = live_rows(p, text)
    aligned = str(_aligned(p, text)).lower()
    text.line(f"mma_few<Shape, {shape.unit}, {aligned}>({kind}, {n}, {live}, source, {lead}, finish, room);")
    part = Part(f"{p.name}_mma", text, (ceil(n / shape.unit), 1), THREADS, shape.bytes, "mma_few.cuh")
    part.early = {id(w) for w in p.matrix}
    return part


def fits_many(p: Product, how: Stored) -> bool:
    """Whether rows of weights can be copied 16 bytes at a time, and a warp's sums held in registers."""
    return p.depth % (16 if how.grouped else 8) == 0 and _many_shape(p, how, 33).m <= 4


def mma_many(p: Product, how: Stored, new_text: Callable[[], KernelText], rows: int) -> list[Part]:
    """The launches of a product of more rows: one says them in terms, in scratch memory, and one multiplies."""
    need, scratch = scratch_bytes(p.anchor), p.anchor.scratch
    if scratch is None or scratch[1] < need:
        what = f"{p.anchor.name} giving {p.anchor.result.ref}"
        raise PlanError(f"{what}: expected {need} bytes of scratch, got {scratch}")
    staged = f"const Staged staged{{scratch, {rows}, {_up(p.depth, how.panel)}}};"
    element = "bf16" if how.bf16 else "f16"

    text = new_text()
    text.shared = scratch
    declare_source(p, text)
    lead = lead_of(p, text)
    text.line("let_consumers_start();")
    text.line("wait_for_producers();")
    text.line("const int t = blockIdx.x;")
    text.line(f"if (t >= {live_rows(p, text)}) return;")
    text.line(staged)
    numbers = f"{element}, {how.terms}, {how.per}, {str(_aligned(p, text)).lower()}"
    text.line(f"stage_terms<{numbers}>(source(t), {lead}, t, {p.depth}, staged, room);")
    stem = "stage_norm" if any(op.name == "rmsnorm" for op in p.lead) else "stage"
    first = Part(stem, text, (rows, 1), THREADS, 8 * WARPS, "mma_many.cuh", scratch=True)

    text = new_text()
    text.shared = scratch
    shape = _many_shape(p, how, rows)
    n = p.columns // p.pieces
    kind, _ = declare_weights(p, text)
    Finish(p, text, shape.unit).write()
    text.line(staged)
    numbers = f"{shape.columns}, {shape.rows}, {shape.m}, {shape.stages}, {how.terms}"
    text.line(f"using Shape = MmaMany<{numbers}>;")
    live = live_rows(p, text)
    text.line(f"mma_many<Shape, {shape.unit}, {shape.slice}>({kind}, {n}, {live}, staged, finish, room);")
    grid = ceil(rows / shape.rows), ceil(n / shape.unit)
    second = Part(f"{p.name}_mma_tiles", text, grid, THREADS, shape.bytes, "mma_many.cuh", scratch=True)
    second.early = {id(w) for w in p.matrix}
    return [first, second]


@dataclass(frozen=True, slots=True)
class _ManyShape:
    """How a block of mma_many.cuh shares its work; rows that are finished together; bytes of shared memory."""

    unit: int
    columns: int
    rows: int
    m: int
    stages: int
    slice: int
    bytes: int


def _many_shape(p: Product, how: Stored, rows: int) -> _ManyShape:
    """Tiles as large as registers hold, or smaller ones where there would be too few for all of the machine."""
    tiles = [(128, 128), (128, 64), (64, 64)] if how.terms == 1 else [(128, 64), (64, 64)]
    for preferred, each in tiles:
        unit = unit_of(p, max(4, preferred // p.pieces))
        columns = unit * p.pieces
        if each < 2 * rows and ceil(p.columns / columns) * ceil(rows / each) >= ENOUGH:
            break
    down = WARPS // (each // 32)
    m = ceil(ceil(columns / 16) / down)
    stage = 64 * (16 * m * down + (2 if how.grouped else 1) * how.terms * each)
    stages = 3 if 3 * stage <= MANY_BYTES else 2
    done = min(each, 64 if 256 * (columns + 4) <= stages * stage else 32)
    return _ManyShape(unit, columns, each, m, stages, done, max(stages * stage, 4 * done * (columns + 4)))


def _aligned(p: Product, text: KernelText) -> bool:
    """Whether rows of activations are floats that start on boundaries of 16 bytes and are a multiple of 32 long."""
    layout = text.layouts.of(p.rows)
    outer = layout.strides[:-1]
    whole = p.rows.type.dtype == "f32" and p.depth % 8 == 0 and layout.offset % 4 == 0
    return whole and all(stride % 4 == 0 for stride in outer)


def _preferred(columns: int, rows: int) -> int:
    """Columns for a block: more where there are more rows to stage, as long as all of the machine has work."""
    small, large = (2560, 10240) if rows <= 8 else (1280, 6144)
    return 16 if columns <= small else 32 if columns <= large else 64


@dataclass(frozen=True, slots=True)
class _FewShape:
    """How a block of mma_few.cuh shares its work; ``bytes`` of shared memory."""

    unit: int
    columns: int
    m: int
    split: int
    depth: int
    slab: int
    bytes: int


def _few_shape(p: Product, how: Stored, unit: int, rows: int) -> _FewShape:
    columns = unit * p.pieces
    tiles = ceil(columns / 16)
    m = 2 if tiles % 2 == 0 or tiles > WARPS else 1
    split, depth = 1, 4 // m
    while 2 * split * ceil(tiles / m) <= WARPS and split * how.step < p.depth:
        split *= 2
    kept = 2 * _up(rows, 4) + 2 * rows * WARPS + _up(rows * columns, 4)  # floats, beside a slab
    each = 2 * how.terms * rows  # bytes of an element of k, in all rows
    most = min(SLAB_BYTES, ROOM - 4 * kept) // each - 32
    while split * depth * how.step > most or (depth > 1 and split * depth * how.step >= 2 * p.depth):
        depth, split = (depth // 2, split) if depth > 1 else (depth, split // 2)
    turn = split * depth * how.step
    slab = turn * min(most // turn, ceil(p.depth / turn))
    staged, parts = each * (slab + 32) // 4, split * rows * columns * (split > 1)
    return _FewShape(unit, columns, m, split, depth, slab, 4 * (kept + max(staged, parts)))


def _up(n: int, to: int) -> int:
    return -(-n // to) * to
