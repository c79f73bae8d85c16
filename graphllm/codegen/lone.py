"""Kernels without a matrix product: gathering, the rotation table, and any operation by itself, in C++ and CUDA alike.

A kernel's units of work (rows, mostly) are taken in ``Turns``: by threads on a CPU, by blocks on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

from graphllm.codegen.fits import fits_gather
from graphllm.codegen.text import KernelText, per_row
from graphllm.errors import PlanError
from graphllm.ir.core import Operation, Value
from graphllm.ir.opdef import lookup

Writer: TypeAlias = Callable[[Operation, KernelText], None]
Text = TypeVar("Text", bound=KernelText)  # a target may know more of its kernels


def write_kernel(
    ops: Sequence[Operation],
    handed_out: Sequence[Value],
    text: Text,
    own: Mapping[str, Callable[[Operation, Text], None]],
) -> str:
    """Add the lines of a kernel; its name. ``own`` writes the operations that each target does in its own way.

    Raises:
        PlanError: there is no code for it.
    """
    work = [op for op in ops if lookup(op.name).views is None]  # a window computes nothing
    if not work:
        return ""
    what = f"{work[0].name} giving {work[0].results[0].ref}"
    if len(work) > 1 and not fits_gather(ops, handed_out):
        raise PlanError(f"{what}: the {text.target} target has no code for what this kernel holds besides")
    if work[-1].name == "dequantize" and len(work) == 3:
        return _gather_groups(work, text)
    if work[0].name == "dequantize" and len(work) == 2:
        return _gather_flat(work, text)
    if work[0].name == "embed" and len(work) == 2:
        return _gather(work[0], work[1].result, text)
    op = work[0]
    write = own.get(op.name) or _WRITERS.get(op.name)
    if write is None:
        raise PlanError(f"{what}: the {text.target} target has no code for it at run time")
    write(op, text)
    return op.name


def only_f32(op: Operation, text: KernelText, *values: Value) -> None:
    """Refuse arithmetic in another type."""
    for v in values or (*op.operands, *op.results):
        if v.type.dtype != "f32":
            raise PlanError(
                f"{op.name} giving {op.results[0].ref}: the {text.target} target computes in f32, got {v.type}"
            )


def _embed(op: Operation, text: KernelText) -> None:
    _gather(op, op.result, text)


def _gather(op: Operation, y: Value, text: KernelText) -> str:
    ids, table = op.operands
    rows, d = table.type.shape
    if y.type.dtype not in ("f32", table.type.dtype):
        raise PlanError(
            f"{op.name} giving {y.ref}: the {text.target} target gathers {table.type.dtype} as it is or as f32"
        )
    with _rows(text, y):
        source = text.whole(table, "table")
        line = f"{source} + (long)clip({text.given(ids, 't')}, {rows}) * {d}"
        call = "copy" if y.type.dtype == table.type.dtype else "widen"
        text.line(f"{call}({line}, {d}, {text.row(y, 'y', 't', written=True)});")
    return "embed"


def _gather_groups(ops: Sequence[Operation], text: KernelText) -> str:
    last = ops[2]
    made = {id(op.result): op for op in ops[:2]}
    q, scale = (made[id(v)].operands[1] for v in last.operands)
    (rows, d), groups = q.type.shape, scale.type.shape[1]
    if scale.type.shape[0] != rows:
        raise PlanError(f"{last.name} giving {last.result.ref}: expected a row of scales for each of {rows} rows")
    with _rows(text, last.result):
        text.line(f"const long row = clip({text.given(ops[0].operands[0], 't')}, {rows});")
        at_q = f"{text.whole(q, 'q')} + row * {d}"
        at_scale = f"{text.whole(scale, 'scale')} + row * {groups}"
        y = text.row(last.result, "y", "t", written=True)
        text.line(f"dequantize({at_q}, {at_scale}, {d}, {last.attrs['group']}, {y});")
    return "embed"


def _gather_flat(ops: Sequence[Operation], text: KernelText) -> str:
    """Rows of a table whose groups run over all of it and may straddle rows."""
    conversion, op = ops
    q, scale = conversion.operands
    rows, d = q.type.shape
    group = conversion.attrs["group"]
    with _rows(text, op.result):
        text.line(f"const long first = (long)clip({text.given(op.operands[0], 't')}, {rows}) * {d};")
        text.line(f"float* row = {text.row(op.result, 'y', 't', written=True)};")
        q_at, scale_at = text.whole(q, "q"), text.whole(scale, "scale")
        if len(scale.type.shape) == 2:
            groups = scale.type.shape[1]
            text.line(f"dequantize({q_at} + first, {scale_at} + first / {d} * {groups}, {d}, {group}, row);")
        elif d % int(str(group)) == 0:
            text.line(f"dequantize({q_at} + first, {scale_at} + first / {group}, {d}, {group}, row);")
        else:
            text.line(f"for (int i = 0; i < {d}; ++i)")
            text.line(f"    row[i] = float({q_at}[first + i]) * to_float({scale_at}[(first + i) / {group}]);")
    return "embed"


def _rows(text: KernelText, value: Value):
    """A loop over rows of a value's first dimension."""
    return units(text, text.count(value), "t")


@contextmanager
def units(text: KernelText, count: str, index: str) -> Generator[None]:
    """A loop over ``count`` units of work: those that this thread, or block, takes."""
    turns, loop = (
        f"Turns mine(step, {count}); mine.next();",
        f"int {index} = mine.first; {index} < mine.last; ++{index}",
    )
    with text.block(f"for ({turns})"), text.block(f"for ({loop})"):
        yield


def _elementwise(call: str) -> Writer:
    def write(op: Operation, text: KernelText) -> None:
        only_f32(op, text)
        y = op.result
        n = y.type.shape[-1]
        with units(text, text.count(y, per_row(y)), "i"):
            operands: list[str] = []
            for role, v in zip(("x", "other"), op.operands, strict=False):
                whole = v.type.shape == y.type.shape
                operands.append(text.row(v, role, "i") if whole else text.whole(v, "bias"))
            text.line(f"{call}({', '.join(operands)}, {n}, {text.row(y, 'y', 'i', written=True)});")

    return write


def _rmsnorm(op: Operation, text: KernelText) -> None:
    only_f32(op, text)
    x, gain = op.operands
    n, y = x.type.shape[-1], op.result
    with units(text, text.count(y, per_row(y)), "i"):
        source, weight = text.row(x, "x", "i"), text.whole(gain, "gain")
        text.line(
            f"rmsnorm({source}, {weight}, {n}, {number(op.attrs['eps'])}, {text.row(y, 'y', 'i', written=True)});"
        )


def _rope(op: Operation, text: KernelText) -> None:
    only_f32(op, text)
    x, turn = op.operands
    _, heads, d = x.type.shape
    with units(text, text.count(op.result, heads), "i"):
        angle = text.row(turn, "turn", f"(i / {heads})", dimensions=2)
        y = text.row(op.result, "y", "i", written=True)
        text.line(f"{rope_call(str(op.attrs['pairing']))}({text.row(x, 'x', 'i')}, {angle}, {d}, {y});")


def rope_call(pairing: str) -> str:
    """The function that turns one head."""
    return "rope_interleaved" if pairing == "interleaved" else "rope_half"


def _rotation(op: Operation, text: KernelText) -> None:
    pos, freqs = op.operands
    with _rows(text, op.result):
        where, scale = text.given(pos, "t"), number(op.attrs["scale"])
        y = text.row(op.result, "turn", "t", dimensions=2, written=True)
        text.line(f"rotation({where}, {text.whole(freqs, 'freqs')}, {freqs.type.shape[0]}, {scale}, {y});")


def _cast(op: Operation, text: KernelText) -> None:
    x, y = op.operands[0], op.result
    kinds = (x.type.dtype, y.type.dtype)
    if "f32" not in kinds and kinds[0] != kinds[1]:
        raise PlanError(f"cast giving {y.ref}: the {text.target} target converts from f32 or to f32, got {x.type}")
    call = "copy" if kinds[0] == kinds[1] else "widen" if kinds[1] == "f32" else "narrow"
    with units(text, text.count(y, per_row(y)), "i"):
        text.line(f"{call}({text.row(x, 'x', 'i')}, {y.type.shape[-1]}, {text.row(y, 'y', 'i', written=True)});")


def _dequantize(op: Operation, text: KernelText) -> None:
    q, scale = op.operands
    y, group = op.result, int(str(op.attrs["group"]))
    if len(scale.type.shape) == 1:
        with units(text, str(scale.type.shape[0]), "i"):
            at_q, at_scale = text.whole(q, "q"), text.whole(scale, "scale")
            text.line(
                f"dequantize({at_q} + (long)i * {group}, {at_scale} + i, {group}, {group}, "
                f"{text.whole(y, 'y', written=True)} + (long)i * {group});"
            )
        return
    with _rows(text, y):
        at_q, at_scale, to = text.row(q, "q", "t"), text.row(scale, "scale", "t"), text.row(y, "y", "t", written=True)
        text.line(f"dequantize({at_q}, {at_scale}, {y.type.shape[1]}, {group}, {to});")


def _take_rows(op: Operation, text: KernelText) -> None:
    x, rows = op.operands
    with _rows(text, op.result):
        text.line(f"const int row = clip({text.given(rows, 't')}, {text.count(x)});")
        y = text.row(op.result, "y", "t", written=True)
        text.line(f"copy({text.row(x, 'x', 'row')}, {x.type.shape[1]}, {y});")


def _kv_write(op: Operation, text: KernelText) -> None:
    cache, x = op.operands[:2]
    if x.type.dtype != cache.type.dtype:
        only_f32(op, text, x)
    call = "copy" if x.type.dtype == cache.type.dtype else "cache_row"
    _, heads, _, d = cache.type.shape
    position, slot = text.placing(op)
    with units(text, "step.live", "t"):
        to = f"{text.whole(cache, 'cache', written=True)} + {cache_row(cache, 'h', slot, position)}"
        with text.block(f"for (int h = 0; h < {heads}; ++h)"):
            text.line(f"{call}({text.row(x, 'x', f'(t * {heads} + h)')}, {d}, {to});")


def cache_row(cache: Value, head: str, slot: str, position: str) -> str:
    """The element offset of a head's row of a cache [B,K,S,d]."""
    _, heads, context, d = cache.type.shape
    row = f"((long){slot} * {heads} + {head}) * {context} + {position}"
    return f"({row}) * {d}" if d > 1 else row


def _quantize_rows(op: Operation, text: KernelText) -> None:
    x, (q, scale) = op.operands[0], op.results
    only_f32(op, text, x)
    with units(text, text.count(q, per_row(q)), "i"):
        to = f"{text.row(q, 'q', 'i', written=True)}, {text.row(scale, 'scale', 'i', written=True)}"
        text.line(f"quantize({text.row(x, 'x', 'i')}, {x.type.shape[-1]}, {op.attrs['group']}, {to});")


def number(value: object) -> str:
    """A C++ literal of an attribute."""
    literal = repr(float(str(value)))
    return f"{literal}f"


def _top_experts(op: Operation, text: KernelText) -> None:
    logits, (ids, shares) = op.operands[0], op.results
    only_f32(op, text, logits, shares)
    normalized = "true" if op.attrs["normalized"] else "false"
    with _rows(text, ids):
        sizes = f"{logits.type.shape[1]}, {op.attrs['used']}, {normalized}"
        to = f"{text.row(ids, 'ids', 't', written=True)}, {text.row(shares, 'shares', 't', written=True)}"
        text.line(f"top_experts({text.row(logits, 'logits', 't')}, {sizes}, {to});")


def _expert_sum(op: Operation, text: KernelText) -> None:
    y, shares = op.operands
    only_f32(op, text)
    _, used, n = y.type.shape
    with _rows(text, op.result):
        given = f"{text.row(y, 'x', 't', dimensions=2)}, {text.row(shares, 'shares', 't')}"
        text.line(f"expert_sum({given}, {used}, {n}, {text.row(op.result, 'y', 't', written=True)});")


_WRITERS: Final[dict[str, Writer]] = {
    "add": _elementwise("add"),
    "cast": _cast,
    "dequantize": _dequantize,
    "embed": _embed,
    "expert_sum": _expert_sum,
    "kv_write": _kv_write,
    "mul": _elementwise("mul"),
    "quantize_rows": _quantize_rows,
    "rmsnorm": _rmsnorm,
    "rope": _rope,
    "rotation": _rotation,
    "silu": _elementwise("silu"),
    "take_rows": _take_rows,
    "top_experts": _top_experts,
}
