"""Reads a product off the operations of a kernel; where they are not one, the fuser tries with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphllm.codegen.product import (
    PRODUCTS,
    Bias,
    Branch,
    Cached,
    HeadBias,
    HeadNorm,
    Product,
    Rounded,
    Silu,
    Step,
    Stored,
    Turn,
    With,
)
from graphllm.ir.core import Operation, State, Value, Weight


def product_of(ops: Sequence[Operation], handed_out: Sequence[Value]) -> Product | None:
    """The product that these operations are, in order; None where they are not one kernel's work.

    Args:
        handed_out: results that are read elsewhere: they must be ends of branches.
    """
    anchor = next((op for op in ops if op.name in PRODUCTS), None)
    return _Reader(ops, handed_out, anchor).product() if anchor is not None else None


class _Unfit(Exception):
    """These operations are not one kernel's work."""


class _Reader:
    def __init__(self, ops: Sequence[Operation], handed_out: Sequence[Value], anchor: Operation) -> None:
        self.ops, self.anchor = ops, anchor
        self.made_by = {id(v): op for op in ops for v in op.results}
        self.handed_out = {id(v) for v in handed_out}
        self.reads: dict[int, int] = {}  # id(value) -> how many operations of the kernel read it
        for op in ops:
            for v in op.operands:
                self.reads[id(v)] = self.reads.get(id(v), 0) + 1
        self.used = {id(anchor)}  # identities of operations that are accounted for
        self.tiles: dict[int, Branch] = {}  # id(value) -> the columns that it is
        self.branches: list[Branch] = []

    def product(self) -> Product | None:
        try:
            rows, taken, lead = self.source()
            conversion = self.conversion()
            self.tiles[id(self.anchor.result)] = Branch(0, self.anchor.result.type.shape[1])
            self.end(self.anchor.result)
            for op in self.ops:
                if any(id(v) in self.tiles for v in op.operands):
                    self.follow(op)
            if len(self.used) != len(self.ops):
                return None  # something here has nothing to do with the product
            found = Product(
                self.anchor, rows, taken, lead, conversion, tuple(sorted(self.branches, key=lambda b: b.first))
            )
            return found if _regular(found) else None
        except _Unfit:
            return None

    # Before the product

    def source(self) -> tuple[Value, Value | None, tuple[Operation, ...]]:
        value, taken, lead = self.anchor.operands[0], None, list[Operation]()
        while (op := self.made_by.get(id(value))) is not None:
            takes = op.name == "take_rows" and taken is None
            if not takes and op.name not in ("rmsnorm", "cast", "quantize_rows"):
                raise _Unfit
            if any(id(v) in self.handed_out or self.readers(v) != 1 for v in op.results):
                raise _Unfit
            if any(id(v) in self.made_by for v in op.operands[1:]):
                raise _Unfit
            self.used.add(id(op))
            if takes:
                taken = op.operands[1]
            else:
                lead.insert(0, op)
            value = op.operands[0]
        if isinstance(value, Weight | State):
            raise _Unfit
        names = [op.name for op in lead]
        quantised = names.count("quantize_rows")
        if quantised != (self.anchor.name == "linear_int8") or (quantised and names[-1] != "quantize_rows"):
            raise _Unfit
        if self.anchor.operands[0].type.dtype == "bf16" and names[-1:] == ["cast"]:
            lead.pop()  # the matrix's kind does this by itself
        wide = [op for op in lead if op.name != "quantize_rows"]
        if len(value.type.shape) != 2 or (wide[-1].result if wide else value).type.dtype != "f32":
            raise _Unfit
        return value, taken, tuple(lead)

    def readers(self, value: Value) -> int:
        return self.reads.get(id(value), 0)

    def conversion(self) -> Operation | None:
        """Weights are read as they are stored; whatever else makes the matrix does so elsewhere."""
        if self.anchor.name == "linear_int8":
            if not all(isinstance(v, Weight) for v in self.anchor.operands[2:]):
                raise _Unfit
            return None
        matrix = self.anchor.operands[1]
        op = self.made_by.get(id(matrix))
        if op is None:
            rounded = self.anchor.operands[0].type.dtype == "bf16" and self.anchor.result.type.dtype == "f32"
            if not isinstance(matrix, Weight) or matrix.type.dtype != ("bf16" if rounded else "f32"):
                raise _Unfit
            return None
        if op.name not in ("cast", "dequantize") or not all(isinstance(v, Weight) for v in op.operands):
            raise _Unfit
        if matrix.type.dtype != "f32" or id(matrix) in self.handed_out or self.readers(matrix) != 1:
            raise _Unfit
        self.used.add(id(op))
        return op

    # After it

    def end(self, value: Value) -> None:
        """A value that others read is the end of its branch."""
        if id(value) in self.handed_out:
            if self.readers(value):
                raise _Unfit
            self.branches.append(replace(self.tiles[id(value)], end=Stored(value)))

    def follow(self, op: Operation) -> None:
        self.used.add(id(op))
        made = self.after(op)
        for v in op.operands:
            if id(v) in self.tiles and self.readers(v) != 1:
                raise _Unfit
        for value, branch in zip(op.results, made, strict=False):
            self.tiles[id(value)] = branch
            self.end(value)

    def after(self, op: Operation) -> list[Branch]:
        """The branches that the operation's results are; none for an end."""
        inside = [i for i, v in enumerate(op.operands) if id(v) in self.tiles]
        tile = self.tiles[id(op.operands[inside[0]])]
        if op.name not in ("kv_write", "quantize_rows") and any(v.type.dtype != "f32" for v in op.results):
            raise _Unfit
        if tile.up is not None and op.name != "reshape":
            raise _Unfit
        match op.name:
            case "split" if not tile.head:
                return self.split(tile, op)
            case "reshape":
                return [self.reshape(tile, op)]
            case "silu":
                return [self.then(tile, Silu())]
            case "rmsnorm" if inside == [0] and tile.head:
                return [self.then(tile, HeadNorm(self.outside(op.operands[1]), float(str(op.attrs["eps"]))))]
            case "rope" if inside == [0] and tile.head:
                return [self.then(tile, Turn(self.outside(op.operands[1]), str(op.attrs["pairing"])))]
            case "kv_write" if inside == [1] and tile.head and id(op.operands[0]) not in self.made_by:
                self.branches.append(replace(tile, end=Cached(op)))
                return []
            case "quantize_rows" if tile.head and int(str(op.attrs["group"])) >= tile.head:
                rows, scales = (self.written(v) for v in op.results)
                self.branches.append(replace(tile, end=Rounded(rows, scales)))
                return []
            case "mul" if len(inside) == 2:
                return [self.gate(op)]
            case "add" | "mul" if len(inside) == 1:
                return [self.then(tile, self.combine(tile, op, op.operands[1 - inside[0]], inside[0]))]
            case _:
                raise _Unfit

    def written(self, value: Value) -> Operation:
        """The operation that writes a value to a cache, where nobody else reads it."""
        readers = [op for op in self.ops if any(v is value for v in op.operands)]
        if id(value) in self.handed_out or len(readers) != 1 or readers[0].name != "kv_write":
            raise _Unfit
        (op,) = readers
        if op.operands[1] is not value or id(op.operands[0]) in self.made_by:
            raise _Unfit
        self.used.add(id(op))
        return op

    def outside(self, value: Value) -> Value:
        if id(value) in self.made_by:
            raise _Unfit
        return value

    def then(self, tile: Branch, step: Step) -> Branch:
        return replace(tile, steps=(*tile.steps, step))

    def split(self, tile: Branch, op: Operation) -> list[Branch]:
        sizes = [v.type.shape[-1] for v in op.results]
        return [replace(tile, first=tile.first + sum(sizes[:i]), width=n) for i, n in enumerate(sizes)]

    def reshape(self, tile: Branch, op: Operation) -> Branch:
        rows, *rest = op.result.type.shape
        if rows != self.anchor.result.type.shape[0] or len(rest) not in (1, 2):
            raise _Unfit
        return replace(tile, head=rest[1] if len(rest) == 2 else 0)

    def combine(self, tile: Branch, op: Operation, other: Value, inside: int) -> Step:
        other = self.outside(other)
        if other.type.dtype != "f32":
            raise _Unfit
        if op.name == "add" and len(other.type.shape) == 1:
            if inside != 0:
                raise _Unfit
            return HeadBias(other) if tile.head else Bias(other, tile.first)
        return With(other, tile.first, "add" if op.name == "add" else "mul")

    def gate(self, op: Operation) -> Branch:
        """silu(first half) * second half, or the halves the other way round."""
        halves = [self.tiles[id(v)] for v in op.operands]
        width = self.anchor.result.type.shape[1] // 2
        for gate, up in (halves, halves[::-1]):
            if gate.steps and isinstance(gate.steps[-1], Silu) and not any(isinstance(s, Silu) for s in up.steps):
                whole = {gate.first, up.first} == {0, width} and gate.width == up.width == width
                if whole and not (gate.head or up.head or gate.up or up.up):
                    return replace(gate, up=up)
        raise _Unfit


def _regular(p: Product) -> bool:
    """Whether units of equal size can hold every branch."""
    if p.pieces == 2:
        return len(p.branches) == 1 and not p.branches[0].head
    return p.edges % p.whole_heads == 0
