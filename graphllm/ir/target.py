"""What the passes must know of a target: which operations its templates absorb, and what memory they need beside.

A target is data plus one function; each code generator declares its own, and the compiler hands it to the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphllm.ir.core import Operation, Value

Fits = Callable[[Sequence[Operation], Sequence[Value]], bool]  # operations in order, what of them is read elsewhere


@dataclass(frozen=True, slots=True)
class Template:
    """A kernel shape: operations that may lead into its anchor, the anchor, and those that may follow.

    A group is built from the anchor outwards: a producer named in ``before`` joins when only the group reads it; a
    consumer named in ``after`` joins when everything else it reads is known by then. A group that does not ``fit``
    gives back its latest consumers until it does, then its producers.
    """

    name: str
    anchor: str
    before: frozenset[str]
    after: frozenset[str]
    fits: Fits = lambda ops, handed_out: True


@dataclass(frozen=True, slots=True)
class Target:
    """A code generator as the passes see it.

    ``templates`` are tried in order for each operation that no group has taken; an operation that fits none becomes a
    kernel of its own, named for it. ``stepwise``: inner values of kernels live in the arena (otherwise in registers).
    ``scratch`` gives the bytes of working memory of one table operation. ``virtual`` marks operations whose result
    exists nowhere: their reader does their work as it goes (the dequantising of a weight tile by tile).
    ``narrow_rows``: products of more rows than that multiply bf16 by bf16; 0 for none.
    """

    name: str
    templates: tuple[Template, ...]
    stepwise: bool
    scratch: Callable[[Operation], int]
    virtual: Callable[[Operation], bool]
    narrow_rows: int = 0
