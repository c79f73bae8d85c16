"""What is done to the finished columns of a product, as C++ text: a lambda over pieces of rows, in C++ and CUDA alike.

The functions that the text calls (``add``, ``rope_interleaved``, ``cache_row``, …) have the same names and arguments on
every target: a thread runs them on a CPU, a warp on a GPU.
"""

from __future__ import annotations

from graphllm.codegen.lone import cache_row, number, rope_call
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
from graphllm.codegen.text import KernelText
from graphllm.ir.core import Operation, Value


class Finish:
    """Writes the lambda ``finish`` of a product that is cut into units of ``unit`` columns."""

    def __init__(self, p: Product, text: KernelText, unit: int) -> None:
        self.p, self.text, self.unit = p, text, unit

    def write(self) -> None:
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
        if unit < branch.head:
            self.part_of(branch, first)
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

    def part_of(self, branch: Branch, first: int) -> None:
        """Elements e … of head h: a unit is less than a head."""
        text, unit, each = self.text, self.unit, branch.head // self.unit
        before = "u" if first == 0 else f"(u - {first})"
        text.line(f"const int n = u * {unit}, h = {before} / {each}, e = {before} % {each} * {unit};")
        self.columns(branch, "row", "n", str(unit), "h", "e")

    def head(self, branch: Branch, x: str) -> None:
        """Head h of a branch, at ``x``."""
        n = _sum(branch.first, f"h * {branch.head}")
        self.columns(branch, x, n, str(branch.head), "h")

    def columns(self, branch: Branch, x: str, n: str, count: str, head: str = "", part: str = "0") -> None:
        """All steps of a branch and its end, on ``count`` columns at ``x``, from column ``n`` of the product on.

        ``part`` is the first one's place in its head. The last step writes straight to the end where that is a value in
        memory.
        """
        text, end = self.text, branch.end
        to = x
        of = _called(branch)
        if isinstance(end, Stored):
            to = self.place(end.value, of or "y", "t", n, branch.first, written=True)
        for i, step in enumerate(branch.steps):
            self.step(step, x, n, count, to if i == len(branch.steps) - 1 else x, of, part)
        if isinstance(end, Cached | Rounded):
            names = {end.write: of} if isinstance(end, Cached) else {end.rows: of, end.scales: f"{of}_scale"}
            to = ", ".join(self.cached(op, head, part, name) for op, name in names.items())
            text.line(f"cache_row({x}, {count}, {to});")
        elif not branch.steps:
            text.line(f"copy({x}, {count}, {to});")

    def cached(self, write: Operation, head: str, part: str, name: str) -> str:
        """Where a head of row t goes in a cache."""
        cache = write.operands[0]
        position, slot = self.text.placing(write)
        return _sum(self.text.whole(cache, name, written=True), cache_row(cache, head, slot, position), part)

    def step(self, step: Step, x: str, n: str, count: str, y: str, of: str = "", part: str = "0") -> None:
        """One step on ``count`` columns at ``x``, the first of which is column ``n`` of the product; into ``y``."""
        text = self.text
        match step:
            case Bias(bias, first):
                text.line(f"add({x}, {_sum(text.whole(bias, 'bias'), _less(n, first))}, {count}, {y});")
            case HeadBias(bias):
                text.line(f"add({x}, {_sum(text.whole(bias, 'bias'), part)}, {count}, {y});")
            case With(other, first, how):
                text.line(f"{how}({x}, {self.place(other, 'residual', 't', n, first)}, {count}, {y});")
            case Silu():
                text.line(f"silu({x}, {count}, {y});")
            case HeadNorm(gain, eps):
                weight = text.whole(gain, f"{of}_gain" if of else "head_gain")
                text.line(f"rmsnorm({x}, {weight}, {count}, {number(eps)}, {y});")
            case Turn(rotation, pairing):
                turn = text.row(rotation, "turn", "t", dimensions=2)
                text.line(f"{rope_call(pairing)}({x}, {_sum(turn, part)}, {count}, {y});")

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
