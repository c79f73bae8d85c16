"""One RoPE layout for every target: interleaved pairs, whatever the checkpoint used.

The rows of a half-split projection (and its bias, and the norm of its heads) are permuted once, at compile time. Every
score stays what it was: q and k are permuted alike, so their products are the same sums in another order. So that they
are, a rope is turned only where nothing but attention ever sees its result, and only together with every other rope
that meets it there, in whichever function of the module: caches outlive a step.

before:
    weight @wq : f32[8,6]
    weight @wk : f32[4,6]
    state @k : f32[1,1,9,4]
    state @v : f32[1,1,9,4]
    func @f(%x: f32[1,6], %turn: f32[1,2,2], %value: f32[1,1,4], %pos: i32[1], %slot: i32[1]) {
      %q.flat = linear %x, @wq : f32[1,8]
      %q = reshape %q.flat {shape=[1,2,4]} : f32[1,2,4]
      %q.turned = rope %q, %turn {pairing="half"} : f32[1,2,4]
      %k.flat = linear %x, @wk : f32[1,4]
      %k = reshape %k.flat {shape=[1,1,4]} : f32[1,1,4]
      %k.turned = rope %k, %turn {pairing="half"} : f32[1,1,4]
      %keys = kv_write @k, %k.turned, %pos, %slot : f32[1,1,9,4]
      %values = kv_write @v, %value, %pos, %slot : f32[1,1,9,4]
      %a = attention %q.turned, %keys, %values, %pos, %slot {scale=0.5} : f32[1,2,4]
      return %a, @k = %keys, @v = %values
    }
after:
    weight @wq : f32[8,6]
    weight @wk : f32[4,6]
    state @k : f32[1,1,9,4]
    state @v : f32[1,1,9,4]
    func @f(%x: f32[1,6], %turn: f32[1,2,2], %value: f32[1,1,4], %pos: i32[1], %slot: i32[1]) {
      %wq.interleaved = interleave @wq {heads=2} : f32[8,6]
      %q.flat = linear %x, %wq.interleaved : f32[1,8]
      %q = reshape %q.flat {shape=[1,2,4]} : f32[1,2,4]
      %q.turned = rope %q, %turn {pairing="interleaved"} : f32[1,2,4]
      %wk.interleaved = interleave @wk {heads=1} : f32[4,6]
      %k.flat = linear %x, %wk.interleaved : f32[1,4]
      %k = reshape %k.flat {shape=[1,1,4]} : f32[1,1,4]
      %k.turned = rope %k, %turn {pairing="interleaved"} : f32[1,1,4]
      %keys = kv_write @k, %k.turned, %pos, %slot : f32[1,1,9,4]
      %values = kv_write @v, %value, %pos, %slot : f32[1,1,9,4]
      %a = attention %q.turned, %keys, %values, %pos, %slot {scale=0.5} : f32[1,2,4]
      return %a, @k = %keys, @v = %values
    }
"""

from __future__ import annotations

from collections.abc import Sequence

from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Operation, State, Value
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.passes.pattern import Match
from graphllm.passes.rewrite import Rule, matches, rewrite


def interleave_rope(module: Module) -> Module:
    """Turn every half-split rope whose projection is in sight and whose company can follow into an interleaved one."""
    ropes = {
        id(found.op("rope").result)
        for function in module.functions.values()
        for found in matches(function, [Rule(equation, _turned, constant) for equation, constant in _EQUATIONS])
        if _applies(found)
    }
    together = _consistent(module, ropes)

    def build(m: Match, b: Builder) -> Sequence[Value] | None:
        return _turned(m, b) if id(m.op("rope").result) in together else None

    return rewrite(module, [Rule(equation, build, constant) for equation, constant in _EQUATIONS])


def _applies(m: Match) -> bool:
    """Whether the rope is half-split and its heads are exactly the projection's columns."""
    rows, columns = m.op("linear").result.type.shape
    t, heads, d = m.op("reshape").result.type.shape
    return m.op("rope").attrs["pairing"] == "half" and (t, heads * d) == (rows, columns)


def _turned(m: Match, b: Builder) -> Sequence[Value]:
    rope, reshape, linear = m.op("rope"), m.op("reshape"), m.op("linear")
    heads = reshape.result.type.shape[1]

    def permuted(value: Value, heads: int) -> Value:
        return b.emit("interleave", (value,), {"heads": heads}, f"{value.name}.interleaved")[0]

    (x,) = b.emit("linear", (m["x"], permuted(m["w"], heads)), {}, linear.result.name)
    if "bias" in m.values:
        (x,) = b.emit("add", (x, permuted(m["bias"], heads)), {}, m.op("add").result.name)
    (x,) = b.emit("reshape", (x,), reshape.attrs, reshape.result.name)
    if "gain" in m.values:
        norm = m.op("rmsnorm")
        (x,) = b.emit("rmsnorm", (x, permuted(m["gain"], 1)), norm.attrs, norm.result.name)
    return b.emit("rope", (x, m["turn"]), {"pairing": "interleaved"}, rope.result.name)


# (equation, what must be constant). They leave out what every one of them does: the pairing changes, and w' bias'
# gain' are permuted rows.
_EQUATIONS = (
    ("rope(reshape(linear(x, w)), turn) => rope(reshape(linear(x, w')), turn)", ("w",)),
    (
        "rope(reshape(add(linear(x, w), bias)), turn) => rope(reshape(add(linear(x, w'), bias')), turn)",
        ("w", "bias"),
    ),
    (
        "rope(rmsnorm(reshape(linear(x, w)), gain), turn) => rope(rmsnorm(reshape(linear(x, w')), gain'), turn)",
        ("w", "gain"),
    ),
    (
        "rope(rmsnorm(reshape(add(linear(x, w), bias)), gain), turn)"
        " => rope(rmsnorm(reshape(add(linear(x, w'), bias')), gain'), turn)",
        ("w", "bias", "gain"),
    ),
)


def _consistent(module: Module, ropes: set[int]) -> set[int]:
    """The largest part of ``ropes`` (identities of results) that can be turned without anyone noticing."""
    meetings: list[tuple[int, str]] = []  # (a query or a key, the cache in which it meets the others)
    written: set[str] = set()
    open_: set[int | str] = set()  # seen by more than attention: values by identity, caches by name
    for function in module.functions.values():
        cache = _caches(function)
        # int8 heads, each under one scale: permuted as what they are made of is
        rounds = {id(op.results[0]): id(op.operands[0]) for op in function.walk() if op.name == "quantize_rows"}
        for op in function.walk():
            for i, v in enumerate(op.operands):
                if not _keeps_to_attention(op, i):
                    open_.add(cache.get(id(v), rounds.get(id(v), id(v))))
            if op.name == "kv_write":
                row = id(op.operands[1])
                meetings.append((rounds.get(row, row), cache[id(op.operands[0])]))
                written.add(cache[id(op.operands[0])])
            elif op.name in ATTENTION:
                meetings.append((id(op.operands[0]), cache.get(id(op.operands[1]), "")))
        open_.update(cache.get(id(v), rounds.get(id(v), id(v))) for v in function.results)
    together = ropes - open_
    while True:
        mixed = {name for v, name in meetings if v not in together or name not in written or name in open_}
        left = together - {v for v, name in meetings if name in mixed}
        if left == together:
            return together
        together = left


def _keeps_to_attention(op: Operation, operand: int) -> bool:
    """Whether the order of a head's elements in this operand matters to nobody but attention."""
    if op.name == "quantize_rows":
        return int(str(op.attrs["group"])) >= op.operands[0].type.shape[-1]
    return operand in (0, 1) and (op.name in ATTENTION or op.name == "kv_write")


def _caches(function: Function) -> dict[int, str]:
    """id(a state or a later value of it) -> the state's name."""
    out: dict[int, str] = {}
    for op in function.walk():
        out.update({id(v): v.name for v in op.operands if isinstance(v, State)})
        if op.name == "kv_write":
            out[id(op.result)] = out[id(op.operands[0])]
    return out
