"""Kernels around a matrix product: where a row comes from, and what is done to each finished piece of it."""

from __future__ import annotations

from typing import Final

from graphllm.codegen.cpu.lone import cache_row, number, rope_call
from graphllm.codegen.cpu.target import FEW, scratch_bytes
from graphllm.codegen.cpu.text import C_TYPES, KernelText
from graphllm.codegen.product import (
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
from graphllm.errors import PlanError
from graphllm.ir.core import Operation, Value

UNIT: Final = 32  # columns that are computed together, where heads do not say otherwise
_OF_HEADS: Final = (HeadBias, HeadNorm, Turn)


def write_product(p: Product, text: KernelText) -> str:
    """Add the lines of a kernel around a product; its name."""
    writer = _Writer(p, text)
    writer.write()
    return writer.name


class _Writer:
    def __init__(self, p: Product, text: KernelText) -> None:
        self.p, self.text = p, text
        self.unit = p.unit(UNIT)

    @property
    def name(self) -> str:
        """What the kernel does, in a few words."""
        p = self.p
        words = [op.name.removeprefix("rms") for op in p.lead if op.name == "rmsnorm"]
        words.append("linear")
        steps = [s for b in p.branches for s in b.steps]
        if p.pieces == 2:
            words.append("swiglu")
        if any(isinstance(s, Turn) for s in steps):
            words.append("rope")
        if any(isinstance(b.end, Cached | Rounded) for b in p.branches):
            words.append("cache")
        if any(isinstance(s, With) for s in steps):
            words.append("add")
        return "_".join(words)

    def write(self) -> None:
        p, text = self.p, self.text
        matrix, row = self.matrix()
        pieces = p.pieces
        n = p.columns // pieces
        units = -(-n // self.unit)
        last = n - (units - 1) * self.unit
        self.source()
        self.finish()
        live = text.count(p.rows) if p.taken is None else str(p.anchor.result.type.shape[0])
        if any(isinstance(b.end, Cached | Rounded) for b in p.branches):
            live = "step.live"  # whatever a damaged plan makes its rows of: others have no position
        most = p.anchor.result.type.shape[0]
        cut = f"Cut{{{{{pieces}, {n}}}, {self.unit}, {units}, {last}}}"
        if most <= FEW:
            text.line(f"linear_few(step, {matrix}, {live}, {cut}, source, finish);")
            text.private.append(f"few_bytes({row}, {p.depth}, {pieces}, {self.unit})")
            return
        need, text.shared = scratch_bytes(p.anchor), p.anchor.scratch
        if text.shared is None or text.shared[1] < need:
            what = f"{p.anchor.name} giving {p.anchor.result.ref}"
            raise PlanError(f"{what}: expected {need} bytes of scratch, got {text.shared}")
        text.line(f"linear_many(step, {matrix}, {live}, {cut}, source, finish, shared);")
        text.private.append(f"many_bytes({row}, {p.depth}, {most}, {pieces}, {self.unit})")

    # The matrix

    def matrix(self) -> tuple[str, str]:
        """The variable of the weights, and what a staged row of activations takes, as expressions."""
        p, text = self.p, self.text
        k = p.depth
        if p.anchor.name == "linear_int8" or (p.conversion is not None and p.conversion.name == "dequantize"):
            q, scale = p.matrix
            op = p.conversion or p.anchor
            flat = len(scale.type.shape) == 1
            kind = "Dynamic" if p.conversion is None else "Flat" if flat else "Groups"
            pointers = f"{text.whole(q, 'q')}, {text.whole(scale, 'scale')}"
            kind = f"{kind}<{C_TYPES[scale.type.dtype]}>"
            text.line(f"const {kind} weights{{{pointers}, {k}, {op.attrs['group']}}};")
            sizes = f"{k}, {op.attrs['group']}" if p.conversion is None else str(k)
            return "weights", f"{kind}::row_bytes({sizes})"
        w = p.conversion.operands[0] if p.conversion is not None else p.anchor.operands[1]
        kind = "Both16" if p.rounded else f"Dense<{C_TYPES[w.type.dtype]}>"
        text.line(f"const {kind} weights{{{text.whole(w, 'w')}, {k}}};")
        return "weights", f"{kind}::row_bytes({k})"

    # Rows of activations

    def source(self) -> None:
        """A lambda that gives activation row t: where it lies, or in a room of the caller's."""
        p, text = self.p, self.text
        index = "t" if p.taken is None else f"clip({text.given(p.taken, 't')}, {text.count(p.rows)})"
        row = text.row(p.rows, "x", index)
        lead = [op for op in p.lead if op.name != "quantize_rows"]  # which the matrix's kind does by itself
        room = "float* room" if lead else "float*"
        with text.block(f"const auto source = [&](int t, {room}) -> const float*", "};"):
            for op in lead:
                if op.name == "rmsnorm":
                    gain = text.whole(op.operands[1], "gain")
                    text.line(f"rmsnorm({row}, {gain}, {p.depth}, {number(op.attrs['eps'])}, room);")
                elif op.operands[0].type.dtype != op.result.type.dtype:
                    text.line(f"widen({row}, {p.depth}, room);")
                else:
                    continue
                row = "room"
            text.line(f"return {row};")

    # Finished columns

    def finish(self) -> None:
        """A lambda that takes rows t0 … t1 of unit u, which ``tile`` holds."""
        p, text = self.p, self.text
        simple = len(p.branches) == 1 and not p.branches[0].of_heads
        with (
            text.block("const auto finish = [&](const Tile& tile, int u, int count, int t0, int t1)", "};"),
            text.block("for (int t = t0; t < t1; ++t)"),
        ):
            text.line("float* row = tile.row(t - t0);")
            if p.pieces == 2:
                self.swiglu(p.branches[0])
            elif simple:
                text.line(f"const int n = u * {self.unit};")
                self.columns(p.branches[0], "row", "n", "count")
            else:
                self.by_unit()

    def swiglu(self, branch: Branch) -> None:
        text, up = self.text, branch.up
        assert up is not None
        text.line("float* other = row + tile.piece;")
        text.line(f"const int n = u * {self.unit};")
        gate_first = branch.first == 0
        gate, value = ("row", "other") if gate_first else ("other", "row")
        for half, name in ((branch, gate), (up, value)):
            for step in half.steps:
                if not isinstance(step, Silu):
                    self.step(step, name, _sum(half.first, "n"), "count", name)
        assert isinstance(branch.end, Stored)
        y = self.place(branch.end.value, "y", "t", "n", 0, written=True)
        text.line(f"swiglu({gate}, {value}, count, {y});")

    def by_unit(self) -> None:
        """Each branch has whole units of its own; columns that nothing reads are dropped."""
        text, branches = self.text, self.p.branches
        at = 0  # columns before this one have been dealt with
        for i, b in enumerate(branches):
            first, end = b.first // self.unit, (b.first + b.width) // self.unit
            if b.first > at:
                condition = f"if (u >= {first} && u < {end})"
            elif end * self.unit < self.p.columns or i == 0:
                condition = f"if (u < {end})"
            else:
                condition = ""
            at = b.first + b.width
            with text.block(" ".join(filter(None, ["} else" if i else "", condition])), ""):
                self.unit_of(b, first)
        text.line("}")

    def unit_of(self, branch: Branch, first: int) -> None:
        """Columns [u * unit, …) of the product, within one branch."""
        text, unit = self.text, self.unit
        if not branch.of_heads:
            text.line(f"const int n = u * {unit};")
            self.columns(branch, "row", "n", str(unit))
            return
        heads = unit // branch.head
        before = "u" if first == 0 else f"(u - {first})"
        if heads == 1:
            text.line(f"const int h = {before.strip('()')};")
            self.head(branch, "row")
            return
        text.line("float* head = row;")
        with text.block(
            f"for (int h = {before} * {heads}; h < {before} * {heads} + {heads}; ++h, head += {branch.head})"
        ):
            self.head(branch, "head")

    def head(self, branch: Branch, x: str) -> None:
        """Head h of a branch, at ``x``."""
        n = _sum(branch.first, f"h * {branch.head}")
        self.columns(branch, x, n, str(branch.head), "h")

    def columns(self, branch: Branch, x: str, n: str, count: str, head: str = "") -> None:
        """All steps of a branch and its end, on ``count`` columns at ``x``, from column ``n`` of the product on.

        The last step writes straight to the end where that is a value in memory.
        """
        text, end = self.text, branch.end
        to = x
        of = _called(branch)
        if isinstance(end, Stored):
            to = self.place(end.value, of or "y", "t", n, branch.first, written=True)
        for i, step in enumerate(branch.steps):
            self.step(step, x, n, count, to if i == len(branch.steps) - 1 else x, of)
        if isinstance(end, Cached | Rounded):
            names = {end.write: of} if isinstance(end, Cached) else {end.rows: of, end.scales: f"{of}_scale"}
            to = ", ".join(self.cached(op, head, name) for op, name in names.items())
            text.line(f"cache_row({x}, {count}, {to});")
        elif not branch.steps:
            text.line(f"copy({x}, {count}, {to});")

    def cached(self, write: Operation, head: str, name: str) -> str:
        """Where a head of row t goes in a cache."""
        cache = write.operands[0]
        position, slot = self.text.placing(write)
        return f"{self.text.whole(cache, name, written=True)} + {cache_row(cache, head, slot, position)}"

    def step(self, step: Step, x: str, n: str, count: str, y: str, of: str = "") -> None:
        """One step on ``count`` columns at ``x``, the first of which is column ``n`` of the product; into ``y``."""
        text = self.text
        match step:
            case Bias(bias, first):
                text.line(f"add({x}, {_sum(text.whole(bias, 'bias'), _less(n, first))}, {count}, {y});")
            case HeadBias(bias):
                text.line(f"add({x}, {text.whole(bias, 'bias')}, {count}, {y});")
            case With(other, first, how):
                text.line(f"{how}({x}, {self.place(other, 'residual', 't', n, first)}, {count}, {y});")
            case Silu():
                text.line(f"silu({x}, {count}, {y});")
            case HeadNorm(gain, eps):
                weight = text.whole(gain, f"{of}_gain" if of else "head_gain")
                text.line(f"rmsnorm({x}, {weight}, {count}, {number(eps)}, {y});")
            case Turn(rotation, pairing):
                turn = text.row(rotation, "turn", "t", dimensions=2)
                text.line(f"{rope_call(pairing)}({x}, {turn}, {count}, {y});")

    def place(self, value: Value, role: str, t: str, n: str, first: int, *, written: bool = False) -> str:
        """Where column ``n`` of the product lies in row t of a value whose column 0 is column ``first``."""
        inner = len(value.type.shape) - 1
        return _sum(self.text.row(value, role, t, dimensions=inner, written=written), _less(n, first))


def _called(branch: Branch) -> str:
    """What people call the columns of a branch, by what becomes of them; '' where they have no name."""
    turned = any(isinstance(s, Turn) for s in branch.steps)
    if isinstance(branch.end, Cached | Rounded):
        return "keys" if turned else "values"
    return "queries" if turned else ""


def _sum(*terms: str | int) -> str:
    return " + ".join(str(t) for t in terms if str(t) != "0") or "0"


def _less(n: str, first: int) -> str:
    """``n - first``; simplified where ``n`` begins with that number."""
    if not first:
        return n
    return n.removeprefix(f"{first} + ") if n.startswith(f"{first} + ") else f"{n} - {first}"
