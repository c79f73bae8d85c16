"""What a kernel around a matrix product is: source, matrix, and what happens to each column.

A product's columns fall into *branches*: q, k and v of one product, or gate and up, or all of it. Whatever follows the
product works on a branch of one row alone, so that it can be done while the row is still in registers or cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, lcm
from typing import Final, Literal, TypeAlias

from graphllm.ir.core import Operation, Value, Weight

PRODUCTS: Final = frozenset({"linear", "linear_int8"})


@dataclass(frozen=True, slots=True)
class Bias:
    """Column c of the product += bias[c - first]."""

    bias: Value
    first: int


@dataclass(frozen=True, slots=True)
class HeadBias:
    """Element i of each head += bias[i]."""

    bias: Value


@dataclass(frozen=True, slots=True)
class With:
    """Column first + i of row t is added to, or multiplied by, column i of row t of a value in memory."""

    other: Value
    first: int
    how: Literal["add", "mul"]


@dataclass(frozen=True, slots=True)
class Silu:
    """x / (1 + exp(-x))."""


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Each head divided by its root mean square."""

    gain: Value
    eps: float


@dataclass(frozen=True, slots=True)
class Turn:
    """Each head's pairs turned by the rotation of the row's position."""

    rotation: Value
    pairing: str


@dataclass(frozen=True, slots=True)
class Cached:
    """The end of a branch: each head goes to the row's position in a cache."""

    write: Operation


@dataclass(frozen=True, slots=True)
class Rounded:
    """The end of a branch: each head goes to the row's position in an int8 cache, and its scale to another."""

    rows: Operation
    scales: Operation


@dataclass(frozen=True, slots=True)
class Stored:
    """The end of a branch: its columns go to a value in memory."""

    value: Value


Step: TypeAlias = Bias | HeadBias | With | Silu | HeadNorm | Turn
OF_HEADS: Final = (HeadBias, HeadNorm, Turn, Cached, Rounded)


@dataclass(frozen=True, slots=True)
class Branch:
    """Columns [first, first + width) of a product and what becomes of them; ``head`` is 0 where they are no heads.

    With ``up``, the columns are the activation of a gate: silu of these, times those of ``up``.
    """

    first: int
    width: int
    steps: tuple[Step, ...] = ()
    head: int = 0
    end: Cached | Rounded | Stored | None = None
    up: Branch | None = None

    @property
    def of_heads(self) -> bool:
        """Whether a part of a head is too little to work on."""
        return isinstance(self.end, OF_HEADS) or any(isinstance(s, OF_HEADS) for s in self.steps)


@dataclass(frozen=True, slots=True)
class Product:
    """A kernel around a matrix product.

    Attributes:
        anchor: the product itself, ``linear`` or ``linear_int8``.
        rows: where activation rows come from: a value in memory.
        taken: which of its rows, where not row t for row t.
        lead: what is done to a row before the product, in order: ``cast``, ``rmsnorm``, ``quantize_rows``.
        conversion: what makes the matrix of a stored one.
        branches: by their first column; columns that nothing reads are in none.
    """

    anchor: Operation
    rows: Value
    taken: Value | None
    lead: tuple[Operation, ...]
    conversion: Operation | None
    branches: tuple[Branch, ...]

    @property
    def matrix(self) -> tuple[Weight, ...]:
        """The stored matrix, and its scales if it has any."""
        found = self.conversion.operands if self.conversion is not None else self.anchor.operands[1:]
        if self.anchor.name == "linear_int8":
            found = self.anchor.operands[2:]
        return tuple(v for v in found if isinstance(v, Weight))

    @property
    def rounded(self) -> bool:
        """Whether activations are rounded to bf16, as the matrix is."""
        return self.anchor.name == "linear" and self.anchor.operands[0].type.dtype == "bf16"

    @property
    def depth(self) -> int:
        """K, the length of an activation row."""
        return self.rows.type.shape[-1]

    @property
    def columns(self) -> int:
        """N, the rows of the matrix."""
        return self.anchor.result.type.shape[1]

    @property
    def pieces(self) -> int:
        """2 where a unit has columns of the gate and the same ones of up."""
        return 2 if any(b.up is not None for b in self.branches) else 1

    @property
    def whole_heads(self) -> int:
        """The fewest columns that are a whole number of heads in every branch where heads matter."""
        return lcm(*(b.head for b in self.branches if b.of_heads))

    @property
    def edges(self) -> int:
        """The most columns that divide every branch's first one and width."""
        return gcd(*(e for b in self.branches for e in (b.first, b.first + b.width)), self.columns)

    @property
    def name(self) -> str:
        """What the kernel does, in a few words."""
        words = [op.name.removeprefix("rms") for op in self.lead if op.name == "rmsnorm"]
        words.append("linear")
        steps = [s for b in self.branches for s in b.steps]
        if self.pieces == 2:
            words.append("swiglu")
        if any(isinstance(s, Turn) for s in steps):
            words.append("rope")
        if any(isinstance(b.end, Cached | Rounded) for b in self.branches):
            words.append("cache")
        if any(isinstance(s, With) for s in steps):
            words.append("add")
        return "_".join(words)

    def unit(self, least: int) -> int:
        """Columns that are computed together: whole heads where heads matter, about ``least`` where that can be."""
        if self.pieces == 2 or (len(self.branches) == 1 and not self.branches[0].of_heads):
            return least
        step, edges = self.whole_heads, self.edges
        units = [n for n in range(step, edges + 1, step) if edges % n == 0]
        return next((n for n in units if n >= least), units[-1])
