"""How each table operation is written in NumPy: views made once (``bind`` lines), calls made every step (``run``).

A value of shape [1, …] is held without its leading 1, so that one row costs vector calls. Every name in the generated
text is one of ours: nothing from a checkpoint reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Final

from graphllm.errors import PlanError
from graphllm.ir.core import Operation, RowOrder, Value
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.types import FLOATS


@dataclass(slots=True)
class KernelText:
    """One kernel while it is written: the variables of its values, lines run at bind time and lines run every step."""

    rows: RowOrder
    count: int  # rows of the step
    placing: tuple[Value | None, Value | None]  # the step's own positions and slots
    names: dict[int, str]  # id(value) -> variable, for everything that is stored somewhere
    scratch: dict[int, str]  # id(operation) -> variable, a flat f32 array
    tiled: Mapping[int, str]  # id(value) of a weight converted as it is read -> arguments after the output
    bind: list[str] = field(default_factory=list[str])
    run: list[str] = field(default_factory=list[str])
    views: int = 0
    tile: str = ""  # where weights are widened, tile by tile: a flat f32 array
    following: Operation | None = None  # the operation after the one being written
    silu: Operation | None = None  # one that waits for its product
    parts: dict[int, int] = field(default_factory=dict[int, int])  # id(value) -> id of the view that made it
    placed: bool = False  # whether some line needs to know where the rows are

    def let(self, expression: str) -> str:
        """A variable bound once to ``expression``."""
        name = f"v{self.views}"
        self.views += 1
        self.bind.append(f"{name} = {expression}")
        return name

    def of(self, value: Value) -> str:
        return self.names[id(value)]

    @property
    def where(self) -> str:
        """Parameters that tell a step where its rows are."""
        return where(self.rows, self.count)


def where(rows: RowOrder, count: int) -> str:
    """Parameters that tell the kernels of a step where its rows are, by the kind of step."""
    if count == 1:
        return "position, slot"
    return "start, live, slot" if rows == "consecutive" else "rows"


def reads(op: Operation) -> tuple[Value, ...]:
    """The operands the code reads as arrays; positions and slots reach caches and attention as numbers."""
    return op.operands[:-2] if op.name in ATTENTION or op.name == "kv_write" else op.operands


def scratch_as(scratch: str, shape: tuple[int, ...]) -> str:
    """The start of a flat scratch array under a shape."""
    return f"{scratch}[:{prod(shape)}].reshape({shape})"


def held_shape(value: Value) -> tuple[int, ...]:
    """The shape a value is held in."""
    shape = value.type.shape
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


def reads_whole(op: Operation, operand: int) -> bool:
    """Whether the code wants an operand under its full shape: matrices and caches, whose leading 1 counts."""
    return operand in _WHOLE.get(op.name, ())


def emit(op: Operation, text: KernelText) -> None:
    """Add the operation's lines. Raises PlanError for what NumPy code is not written for."""
    writer = _WRITERS.get(op.name)
    if writer is None:
        raise PlanError(f"{op.name} giving {op.results[0].ref}: the numpy target has no code for it at run time")
    if op.name not in _READS_NARROW:
        for v in (*op.operands, *op.results):
            if v.type.dtype in FLOATS and v.type.dtype != "f32":
                raise PlanError(f"{op.name} giving {op.results[0].ref}: the numpy target computes in f32, got {v.type}")
    writer(op, text)


def _rmsnorm(op: Operation, t: KernelText) -> None:
    x, w = op.operands
    xs, ws, y, d, eps = t.of(x), t.of(w), t.of(op.result), x.type.shape[-1], op.attrs["eps"]
    if x.type.numel == d:
        flat = t.let(f"{xs}.reshape(-1, copy=False)")
        t.run += [
            f"r = 1.0 / sqrt(float(dot({flat}, {flat})) / {d} + {eps!r})",
            f"multiply({xs}, {ws}, out={y})",
            f"multiply({y}, r, out={y})",
        ]
        return
    sums = t.let(scratch_as(t.scratch[id(op)], held_shape(x)[:-1]))
    column = t.let(f"{sums}[..., None]")
    t.run += [
        f"vecdot({xs}, {xs}, out={sums})",
        f"multiply({sums}, {1 / d!r}, out={sums})",
        f"add({sums}, {eps!r}, out={sums})",
        f"square_root({sums}, out={sums})",
        f"divide({xs}, {column}, out={y})",
        f"multiply({y}, {ws}, out={y})",
    ]


def _linear(op: Operation, t: KernelText) -> None:
    x, w = op.operands
    xs, y = t.of(x), t.of(op.result)
    if id(w) in t.tiled:
        run = t.let(f"bind_tiled_linear({xs}, {y}, {t.tiled[id(w)]})")
        t.run.append(f"{run}()")
    elif x.type.shape[0] == 1:
        t.run.append(f"dot({t.of(w)}, {xs}, out={y})")  # [N,K] @ [K]
    else:
        turned = t.let(f"{t.of(w)}.T")
        t.run.append(f"matmul({xs}, {turned}, out={y})")  # [T,K] @ [K,N]


def _top_experts(op: Operation, t: KernelText) -> None:
    names = [t.let(f"{t.of(v)}.reshape({v.type.shape}, copy=False)") for v in (*op.operands, *op.results)]
    t.run.append(f"top_experts({', '.join(names)}, {bool(op.attrs['normalized'])})")


def _expert_linear(op: Operation, t: KernelText) -> None:
    x, w, ids = op.operands
    rows = (x.type.shape[0], 1 if len(x.type.shape) == 2 else x.type.shape[1], x.type.shape[-1])
    shapes = ((x, rows), (ids, ids.type.shape), (op.result, op.result.type.shape))
    names = [t.let(f"{t.of(v)}.reshape({shape}, copy=False)") for v, shape in shapes]
    matrix = t.tiled.get(id(w)) or t.of(w)
    run = t.let(f"bind_experts({', '.join(names)}, {op.attrs['experts']}, {matrix})")
    t.run.append(f"{run}()")


def _expert_sum(op: Operation, t: KernelText) -> None:
    names = [t.let(f"{t.of(v)}.reshape({v.type.shape}, copy=False)") for v in (*op.operands, op.result)]
    run = t.let(f"bind_expert_sum({', '.join(names)})")
    t.run.append(f"{run}()")


def _quantize_rows(op: Operation, t: KernelText) -> None:
    q, scale = op.results
    t.run.append(f"quantize_rows({t.of(op.operands[0])}, {op.attrs['group']}, {t.of(q)}, {t.of(scale)})")


def _linear_int8(op: Operation, t: KernelText) -> None:
    """Both sides widened: NumPy has no product of integers that is as fast as one of floats."""
    q, scale, w, w_scale = map(t.of, op.operands)
    group = op.attrs["group"]
    x = t.let(scratch_as(t.scratch[id(op)], held_shape(op.operands[0])))
    run = t.let(f"bind_tiled_linear({x}, {t.of(op.result)}, {w}, {t.tile}, {w_scale}, {group})")
    t.run += [f"scale_groups({q}, {scale}, {group}, {x})", f"{run}()"]


def _add(op: Operation, t: KernelText) -> None:
    a, b = op.operands
    t.run.append(f"add({t.of(a)}, {t.of(b)}, out={t.of(op.result)})")


def _mul(op: Operation, t: KernelText) -> None:
    a, b = op.operands
    if t.silu is None:
        t.run.append(f"multiply({t.of(a)}, {t.of(b)}, out={t.of(op.result)})")
        return
    gate, t.silu = t.silu.operands[0], None
    run = t.let(f"bind_swiglu({t.of(gate)}, {t.of(b)}, {t.of(a)}, {t.of(op.result)})")
    t.run.append(f"{run}()")


def _silu(op: Operation, t: KernelText) -> None:
    gate, following = op.operands[0], t.following
    if (
        op.result.type.shape[0] > 1
        and following is not None
        and (following.name, following.operands[0]) == ("mul", op.result)
        # of one split: then the gate is still there when the product is written, wherever that lies
        and t.parts.get(id(gate), 0) == t.parts.get(id(following.operands[1]), 1)
    ):
        t.silu = op  # written together with the product, tile by tile
        return
    x, y = t.of(op.operands[0]), t.of(op.result)
    t.run += [f"negative({x}, out={y})", f"exp({y}, out={y})", f"add({y}, 1.0, out={y})", f"divide({x}, {y}, out={y})"]


def _embed(op: Operation, t: KernelText) -> None:
    ids, table = op.operands
    bits = {"bf16": ".view(uint16)", "f16": ".view(uint16)"}.get(table.type.dtype, "")
    rows = t.let(f"{t.of(op.result)}{bits}.reshape({op.result.type.shape}, copy=False)")
    source = t.let(f"{t.of(table)}{bits}") if bits else t.of(table)
    t.run.append(f"take({source}, {t.of(ids)}, 0, {rows}, 'clip')")


def _take_rows(op: Operation, t: KernelText) -> None:
    x, rows = op.operands
    source = t.let(f"{t.of(x)}.reshape({x.type.shape}, copy=False)")
    room = t.let(f"{t.of(op.result)}.reshape({op.result.type.shape}, copy=False)")
    t.run.append(f"take({source}, {t.of(rows)}, 0, {room}, 'clip')")


def _cast(op: Operation, t: KernelText) -> None:
    x, y = op.operands[0], op.result
    if y.type.dtype == "f32" and x.type.dtype != "f32":
        t.run.append(f"widen({t.of(x)}, {t.of(y)})")
    else:
        t.run.append(f"copyto({t.of(y)}, {t.of(x)}, casting='unsafe')")


def _dequantize(op: Operation, t: KernelText) -> None:
    q, scale = op.operands
    y, group = t.of(op.result), op.attrs["group"]
    if len(scale.type.shape) == 1:
        q_flat, y_flat = (t.let(f"{flat}.reshape(-1, {group}, copy=False)") for flat in (t.of(q), y))
        t.run += [f"copyto({y_flat}, {q_flat})", f"multiply({y_flat}, {t.of(scale)}[:, None], out={y_flat})"]
    else:
        t.run.append(f"scale_groups({t.of(q)}, {t.of(scale)}, {group}, {y})")


def window(op: Operation, i: int, source: str) -> str:
    """Result ``i`` of a reshape or split as a view of ``source``."""
    if op.name == "reshape":
        return f"{source}.reshape({held_shape(op.result)}, copy=False)"
    sizes = op.attrs["sizes"]
    assert isinstance(sizes, tuple)
    return f"{source}[..., {sum(sizes[:i])} : {sum(sizes[: i + 1])}]"


def _view(op: Operation, t: KernelText) -> None:
    for i, value in enumerate(op.results):
        t.parts[id(value)] = id(op)
        t.names[id(value)] = t.let(window(op, i, t.of(op.operands[0])))


def _rotation(op: Operation, t: KernelText) -> None:
    pos, freqs = op.operands
    y, scale = t.of(op.result), op.attrs["scale"]
    angle = t.let(scratch_as(t.scratch[id(op)], held_shape(op.result)[:-1]))
    column = t.of(pos) if op.result.type.shape[0] == 1 else t.let(f"{t.of(pos)}[:, None]")
    cos, sin = t.let(f"{y}[..., 0]"), t.let(f"{y}[..., 1]")
    # an i32 position by an f32 frequency multiplies in f64, exactly, and is rounded once
    t.run += [f"multiply({column}, {t.of(freqs)}, out={angle})", f"cos({angle}, out={cos})", f"sin({angle}, out={sin})"]
    if scale != 1.0:
        t.run.append(f"multiply({y}, {scale!r}, out={y})")


def _rope(op: Operation, t: KernelText) -> None:
    x, turn = op.operands
    xs, y, turns = t.of(x), t.of(op.result), t.of(turn)
    heads = "[:, None]" if x.type.shape[0] > 1 else ""
    if op.attrs["pairing"] == "interleaved":  # a pair is a complex number and a turn multiplies it
        xc, yc = t.let(f"{xs}.view(complex64)"), t.let(f"{y}.view(complex64)")
        tc = t.let(f"{turns}.view(complex64)[..., 0]{heads}")
        t.run.append(f"multiply({xc}, {tc}, out={yc})")
        return
    half = x.type.shape[-1] // 2
    u, v = t.let(f"{xs}[..., :{half}]"), t.let(f"{xs}[..., {half}:]")
    c, s = t.let(f"{turns}[..., 0]{heads}"), t.let(f"{turns}[..., 1]{heads}")
    # the left half is computed aside: y may lie where x does
    t.run += [
        f"left = {u} * {c} - {v} * {s}",
        f"{y}[..., {half}:] = {u} * {s} + {v} * {c}",
        f"{y}[..., :{half}] = left",
    ]


def _kv_write(op: Operation, t: KernelText) -> None:
    cache, x = op.operands[:2]
    c, xs = t.of(cache), t.of(x)
    _placed_by_the_step(op, t)
    t.names[id(op.result)] = c
    t.placed = True
    if t.count == 1:
        t.run.append(f"{c}[slot, :, position] = {xs}")
    elif t.rows == "consecutive":
        by_head = t.let(f"{xs}.swapaxes(0, 1)")  # [K,T,d]
        t.run.append(f"{c}[slot, :, start : start + live] = {by_head}[:, :live]")
    else:
        t.run += ["for t, position, slot in rows:", f"    {c}[slot, :, position] = {xs}[t]"]


def _placed_by_the_step(op: Operation, t: KernelText) -> None:
    """The code is told once where the rows of a step are: refuse an operation that would put them elsewhere."""
    for operand, own, name in zip(op.operands[-2:], t.placing, ("pos", "slot"), strict=True):
        if operand is not own:
            raise PlanError(
                f"{op.name} giving {op.results[0].ref}: its {name} is {operand.ref}; expected the input %{name}"
            )


def _attention(op: Operation, t: KernelText) -> None:
    q, *caches = op.operands[:-2]
    _placed_by_the_step(op, t)
    half = len(caches) // 2  # rows, and their scales if they are int8
    keys, values = (f"({', '.join(map(t.of, side))},)" for side in (caches[:half], caches[half:]))
    kind = "row" if t.count == 1 else "block" if t.rows == "consecutive" else "rows"
    run = t.let(
        f"bind_{kind}({t.of(q)}, {keys}, {values}, {t.of(op.result)}, {t.scratch[id(op)]}, "
        f"scale={op.attrs['scale']!r}, window={op.attrs['window']!r})"
    )
    t.placed = True
    t.run.append(f"{run}({t.where})")


_WRITERS: Final[dict[str, Callable[[Operation, KernelText], None]]] = {
    "add": _add,
    "attention": _attention,
    "attention_int8": _attention,
    "cast": _cast,
    "dequantize": _dequantize,
    "embed": _embed,
    "expert_linear": _expert_linear,
    "expert_sum": _expert_sum,
    "kv_write": _kv_write,
    "linear": _linear,
    "linear_int8": _linear_int8,
    "mul": _mul,
    "quantize_rows": _quantize_rows,
    "reshape": _view,
    "rmsnorm": _rmsnorm,
    "rope": _rope,
    "rotation": _rotation,
    "silu": _silu,
    "split": _view,
    "take_rows": _take_rows,
    "top_experts": _top_experts,
}
_WHOLE: Final = {
    "attention": (1, 2),
    "attention_int8": (1, 2, 3, 4),
    "embed": (1,),
    "expert_linear": (1,),
    "kv_write": (0,),
    "linear": (1,),
    "linear_int8": (2, 3),
}
_READS_NARROW: Final = frozenset(
    {"attention", "attention_int8", "cast", "dequantize", "embed", "kv_write", "linear_int8", "reshape", "split"}
)
