"""Kernels around a matrix product: where a row comes from, and what is done to each finished piece of it."""

from __future__ import annotations

from typing import Final

from graphllm.codegen.cpu.target import FEW, scratch_bytes
from graphllm.codegen.cpu.text import CpuText
from graphllm.codegen.finish import Finish
from graphllm.codegen.lone import number
from graphllm.codegen.product import Cached, Product, Rounded
from graphllm.codegen.text import C_TYPES
from graphllm.errors import PlanError

UNIT: Final = 32  # columns that are computed together, where heads do not say otherwise


def write_product(p: Product, text: CpuText) -> str:
    """Add the lines of a kernel around a product; its name."""
    _Writer(p, text).write()
    return p.name


class _Writer:
    def __init__(self, p: Product, text: CpuText) -> None:
        self.p, self.text = p, text
        self.unit = p.unit(UNIT)

    def write(self) -> None:
        p, text = self.p, self.text
        matrix, row = self.matrix()
        pieces = p.pieces
        n = p.columns // pieces
        units = -(-n // self.unit)
        last = n - (units - 1) * self.unit
        self.source()
        Finish(p, text, self.unit).write()
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
        text.many = True
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
            pointers = f"{text.whole(q, 'q')}, {text.whole(scale, 'scale')}"
            stored, group = C_TYPES[scale.type.dtype], op.attrs["group"]
            if len(scale.type.shape) == 1:
                text.line(f"const Flat<{stored}> weights{{{pointers}, {k}, {group}}};")
                return "weights", f"Flat<{stored}>::row_bytes({k})"
            kind = f"{'Dynamic' if p.conversion is None else 'Groups'}<{stored}, {group}>"
            text.line(f"const {kind} weights{{{pointers}, {k}}};")
            return "weights", f"{kind}::row_bytes({k})"
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
