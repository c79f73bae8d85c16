"""The cuda target as the passes see it, and how its kernels are cut into blocks.

What happens inside a kernel happens in registers and shared memory. A product of few rows takes its weights past the
cores once; one of more is computed by tiles, from rows that a launch of their own has staged in scratch memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final

from graphllm.codegen.fits import ATTENTIONS, EXPERTS, GATHERS, converts_weight, products
from graphllm.codegen.product import PRODUCTS, Branch, HeadNorm, Product, Rounded, Turn
from graphllm.codegen.product_reader import product_of
from graphllm.ir.core import Operation, Value
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.target import Target

FEW: Final = 8  # rows of a step up to which weights are multiplied as they stream by
MOST_FEW: Final = 32  # up to which their way past tensor cores is what takes time, whatever is computed on it
STAGED: Final = (
    60 << 10
)  # bytes of activations that a block holds in shared memory: what every architecture has room for
ROOM: Final = 64 << 10  # bytes of shared memory a block may have on every architecture
WIDEST: Final = 256  # columns that a block may have to hold together
LEAST_CHUNK: Final = 128  # keys of a head that one block deals with
MOST_CHUNKS: Final = 256  # of the keys of all rows together
MANY_ROWS: Final = 16  # so many that nobody's keys need be cut


@dataclass(frozen=True, slots=True)
class Chunks:
    """How the keys of a cache are cut for the blocks of an attention kernel: ``keys`` in each of ``most`` chunks."""

    keys: int
    most: int


def chunks_of(rows: int, context: int) -> Chunks:
    """Chunks of a step of independent rows: fewer for each where there are many rows to keep the machine busy."""
    if rows > MANY_ROWS:
        return Chunks(context, 1)
    keys = max(LEAST_CHUNK, ceil(context / (MOST_CHUNKS // rows)))
    return Chunks(keys, ceil(context / keys))


def attention_rows(op: Operation) -> tuple[int, int, int, int, int]:
    """T, H, K, S and d of an attention operation."""
    (rows, heads, d), (_, kv_heads, context, _) = op.operands[0].type.shape, op.operands[1].type.shape
    return rows, heads, kv_heads, context, d


def is_few(op: Operation) -> bool:
    """Whether a product takes its activations into shared memory whole, while weights stream by."""
    rows, depth = op.operands[0].type.shape
    wide = 4 * rows * -(-depth // 16) * 16
    if op.name == "linear_int8":  # one row of f32 at a time, and the rounded ones
        wide = (4 + rows) * -(-depth // 16) * 16 + 4 * rows * (op.operands[1].type.shape[1] + 4)
    return rows <= FEW and wide <= STAGED


def scratch_bytes(op: Operation) -> int:
    """Working memory in the arena: staged rows of a product of many, what chunks of keys make of a row."""
    if op.name in ATTENTION:
        rows, heads, _, context, d = attention_rows(op)
        most = chunks_of(rows, context).most
        return 4 * rows * heads * most * (d + 2) if most > 1 else 0
    if op.name not in PRODUCTS or is_few(op):
        return 0
    rows, depth = op.operands[0].type.shape
    return 4 * (rows + 3 + rows * -(-depth // 64) * 64)  # two 16-bit terms, or f32, and a factor for each row


def unit_of(p: Product, preferred: int) -> int:
    """Columns of each piece of a product that a block computes: about ``preferred``.

    A branch of heads is cut within heads where what follows works on pairs of neighbours, and between them elsewhere.
    0 where there is no way to cut it.
    """
    if p.pieces == 2 or (len(p.branches) == 1 and not p.branches[0].of_heads):
        return preferred
    units = [n for n in range(1, p.edges + 1) if p.edges % n == 0 and all(_holds(b, n) for b in p.branches)]
    small = [n for n in units if n <= preferred]
    return small[-1] if small else next(iter(units), 0)


def _holds(branch: Branch, unit: int) -> bool:
    """Whether units of that many columns can be all that is looked at of a branch at a time."""
    if not branch.of_heads or unit % branch.head == 0:
        return True
    turned = [s for s in branch.steps if isinstance(s, Turn)]
    whole = isinstance(branch.end, Rounded) or any(isinstance(s, HeadNorm) for s in branch.steps)
    whole = whole or any(s.pairing != "interleaved" for s in turned)
    return not whole and branch.head % unit == 0 and (unit % 2 == 0 or not turned)


def fits(ops: Sequence[Operation], handed_out: Sequence[Value]) -> bool:
    """Whether these operations are one product that blocks can share: at most one norm, and that of widened rows."""
    p = product_of(ops, handed_out)
    if p is None or not 0 < unit_of(p, 1) <= WIDEST:
        return False
    lead = [op.name for op in p.lead]
    return lead.count("rmsnorm") <= 1 and "cast" not in lead[1:]


CUDA: Final = Target(
    name="cuda",
    templates=(*products(fits), *ATTENTIONS, *EXPERTS, *GATHERS),
    stepwise=False,
    scratch=scratch_bytes,
    virtual=converts_weight,
    narrow_rows=MOST_FEW,
)
