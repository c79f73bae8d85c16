"""Products on tensor cores: which there are, and how their operands are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from graphllm.codegen.product import Product
from graphllm.codegen.text import KernelText

WARPS: Final = 8  # of few.cuh
THREADS: Final = 32 * WARPS


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


def aligned(p: Product, text: KernelText) -> bool:
    """Whether rows of activations are floats that start on boundaries of 16 bytes and are a multiple of 32 long."""
    layout = text.layouts.of(p.rows)
    outer = layout.strides[:-1]
    whole = p.rows.type.dtype == "f32" and p.depth % 8 == 0 and layout.offset % 4 == 0
    return whole and all(stride % 4 == 0 for stride in outer)
