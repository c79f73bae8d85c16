"""Random valid modules over the whole op table: fresh inputs for the laws of the IR (``random_arrays`` runs them).

Everything follows from a seed. Sizes are small and odd; conversions, shared inputs, windows, states and whole
attention blocks come often enough for every pass to find something to do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from graphllm.ir import ops
from graphllm.ir.builder import Builder, kernel
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.types import FLOATS, DType, TensorType

Array = NDArray[Any]
TABLE_ROWS = 3  # least number of rows of an embedding table


def random_module(seed: int, *, kernels: bool = False, most_ops: int = 14) -> Module:
    """A valid module: one to three functions over shared weights and states, some of the operations in kernels."""
    rng = random.Random(seed)
    author = _Author(rng)
    functions: dict[str, Function] = {}
    for i in range(rng.choice((1, 1, 2, 3))):
        function = author.function(f"f{i}", rng.randint(1, most_ops))
        functions[function.name] = grouped(function, rng) if kernels else function
    return Module(author.weights, author.states, functions)


def grouped(function: Function, rng: random.Random) -> Function:
    """The function with random stretches of its operations in kernels."""
    out: list[Operation] = []
    done = 0
    while done < len(function.ops):
        if rng.random() < 0.4:
            out.append(function.ops[done])
            done += 1
            continue
        body = function.ops[done : done + rng.randint(1, 5)]
        done += len(body)
        inner = set(map(id, body))
        outside = {id(v) for op in function.ops if id(op) not in inner for v in op.operands}
        outside |= {id(v) for v in (*function.results, *(v for _, v in function.updates))}
        handed_out = [v for op in body for v in op.results if id(v) in outside]
        out += [kernel(rng.choice(("a", 'odd "name"', "")), body, handed_out)] if handed_out else body
    return replace(function, ops=tuple(out))


class _Author:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.weights: dict[str, Weight] = {}
        self.states: dict[str, State] = {}
        self.width = rng.choice((2, 4, 6, 10))
        for i in range(rng.randint(0, 2)):
            cache = TensorType(
                rng.choice(("f32", "f32", "bf16", "f16")),
                (rng.randint(1, 3), rng.choice((1, 2)), rng.randint(3, 9), rng.choice((2, 4, 6))),
            )
            for part in "kv":
                self.states[f"kv.{i}.{part}"] = State(f"kv.{i}.{part}", cache)

    # Weights

    def weight(self, dtype: DType, *shape: int) -> Weight:
        """A weight of the type: an old one, a new one, or one computed from others."""
        type_ = TensorType(dtype, shape)
        same = [w for w in self.weights.values() if w.type == type_]
        if same and self.rng.random() < 0.4:
            return self.rng.choice(same)
        definition = self.definition(type_) if dtype != "i8" and self.rng.random() < 0.2 else None
        source = self.rng.choice(("", "", 'model.layers.0."odd"\\名', "a\nb")) if definition is None else ""
        name = f"w{len(self.weights)}"
        if definition is not None:
            definition = replace(definition, results=(Value(name, type_),))
        self.weights[name] = Weight(name, type_, None, source, definition)
        return self.weights[name]

    def definition(self, type_: TensorType) -> Operation | None:
        rows = type_.shape[0]
        if rows > 1 and self.rng.random() < 0.4:
            cut = self.rng.randint(1, rows - 1)
            parts = [self.weight(type_.dtype, n, *type_.shape[1:]) for n in (cut, rows - cut)]
            return Operation("concat", tuple(parts), {}, ())
        if rows % 2 == 0 and len(type_.shape) <= 2 and self.rng.random() < 0.5:
            return Operation("interleave", (self.weight(type_.dtype, *type_.shape),), {"heads": 1}, ())
        narrow = self.weight(self.rng.choice(("f32", "f16", "bf16")), *type_.shape)
        return Operation("cast", (narrow,), {"dtype": type_.dtype}, ())

    def matrix(self, dtype: DType, n: int, k: int) -> Value:
        """A matrix as a model holds it: as it is, in another precision, or in int8 groups."""
        how = self.rng.randrange(5) if dtype == "f32" else 0
        if how == 1:
            return ops.cast(self.weight(self.rng.choice(("bf16", "f16")), n, k), dtype="f32", name="m.f32")
        if how == 2:
            group = self.rng.choice((2, 3, 4, 32))
            return ops.dequantize(self.weight("i8", n, k), self.weight("f32", n, -(-k // group)), group=group)
        if how == 3:
            group = self.rng.choice([g for g in range(1, n * k + 1) if n * k % g == 0])
            return ops.dequantize(self.weight("i8", n, k), self.weight("f16", n * k // group), group=group)
        return self.weight(dtype, n, k)

    # Functions

    def function(self, name: str, length: int) -> Function:
        rng = self.rng
        with Builder() as b:
            self.t = rng.choice((1, 1, 2, 3, 5))
            self.ids, self.pos, self.slot = (b.input(n, TensorType("i32", (self.t,))) for n in ("ids", "pos", "slot"))
            self.rows = b.input("rows", TensorType("i32", (rng.randint(1, 4),)))
            self.x = b.input("x", TensorType("f32", (self.t, self.width)))
            self.pool: list[Value] = [self.x]
            self.current: dict[str, Value] = dict(self.states)
            for _ in range(length):
                rng.choice(_MOVES)(self)
            results = [self.pool[-1], *(v for v in self.pool[1:] if rng.random() < 0.15)]
            if rng.random() < 0.1:
                results.append(rng.choice((self.weight("f32", 3), self.x, results[0])))
            updates = [(s, self.current[n]) for n, s in self.states.items() if self.current[n] is not s]
            return b.function(name, results, updates, rng.choice(("independent", "consecutive")))

    def pick(self, fits: Callable[[TensorType], bool]) -> Value | None:
        found = [v for v in self.pool if fits(v.type)]
        return self.rng.choice(found[-4:] if self.rng.random() < 0.7 else found) if found else None

    def keep(self, *values: Value) -> None:
        self.pool.extend(values)

    def silu(self) -> None:
        if (x := self.pick(_float)) is not None:
            self.keep(ops.silu(x))

    def add(self) -> None:
        if (a := self.pick(_float)) is not None and a.type.shape:
            bias = self.weight(a.type.dtype, a.type.shape[-1])
            b = self.pick(lambda t: t == a.type) if self.rng.random() < 0.7 else bias
            self.keep(ops.add(a, b))

    def mul(self) -> None:
        if (a := self.pick(_float)) is not None:
            self.keep(ops.mul(a, self.pick(lambda t: t == a.type)))

    def rmsnorm(self) -> None:
        if (x := self.pick(lambda t: _float(t) and len(t.shape) >= 2)) is not None:
            gain = self.weight(x.type.dtype, x.type.shape[-1])
            self.keep(ops.rmsnorm(x, gain, eps=self.rng.choice((1e-5, 1e-6, 0.25))))

    def linear(self) -> None:
        if (x := self.pick(_matrix)) is not None:
            self.keep(ops.linear(x, self.matrix(x.type.dtype, self.rng.randint(1, 7), x.type.shape[1])))

    def twins(self) -> None:
        """Products of one input, as gate and up are."""
        if (x := self.pick(_matrix)) is None:
            return
        with_bias = self.rng.random() < 0.5
        for _ in range(self.rng.randint(2, 3)):
            n = self.rng.randint(1, 6)
            y = ops.linear(x, self.matrix(x.type.dtype, n, x.type.shape[1]))
            if with_bias and self.rng.random() < 0.8:
                y = ops.add(y, self.weight(x.type.dtype, n))
            self.keep(y)

    def moved(self) -> None:
        """A product with a matrix whose converted rows are moved about: what merging and turning leave behind."""
        if (x := self.pick(lambda t: _matrix(t) and t.dtype == "f32")) is None:
            return
        k = x.type.shape[1]
        cast_from, group = self.rng.choice(("", "bf16", "f16")), self.rng.choice((2, 4))

        def part() -> Value:
            n = 2 * self.rng.randint(1, 2)
            if cast_from:
                return ops.cast(self.weight(cast_from, n, k), dtype="f32")
            return ops.dequantize(self.weight("i8", n, k), self.weight("f32", n, -(-k // group)), group=group)

        parts = [part() if self.rng.random() < 0.9 else self.matrix("f32", 2, k) for _ in range(self.rng.randint(1, 5))]
        if self.rng.random() < 0.5:
            parts[0] = ops.interleave(parts[0], heads=self.rng.choice((1, parts[0].type.shape[0] // 2)))
        self.keep(ops.linear(x, parts[0] if len(parts) == 1 else ops.concat(*parts)))

    def reshape(self) -> None:
        if (x := self.pick(lambda t: True)) is not None:
            n = x.type.numel
            k = self.rng.choice([i for i in range(1, n + 1) if n % i == 0])
            self.keep(ops.reshape(x, shape=self.rng.choice(((n,), (1, n), (k, n // k), (n // k, 1, k)))))

    def split(self) -> None:
        if (x := self.pick(lambda t: len(t.shape) > 0 and t.shape[-1] >= 2)) is not None:
            n = x.type.shape[-1]
            cuts = sorted(self.rng.sample(range(1, n), self.rng.randint(1, min(3, n - 1))))
            self.keep(*ops.split(x, sizes=tuple(b - a for a, b in zip((0, *cuts), (*cuts, n), strict=True))))

    def concat(self) -> None:
        if (x := self.pick(lambda t: len(t.shape) > 0)) is not None:
            alike = x.type.dtype, x.type.shape[1:]

            def fits(t: TensorType) -> bool:
                return len(t.shape) > 0 and (t.dtype, t.shape[1:]) == alike

            more = [self.pick(fits) for _ in range(self.rng.randint(1, 3))]
            self.keep(ops.concat(x, *more))

    def take_rows(self) -> None:
        if (x := self.pick(lambda t: len(t.shape) == 2 and t.shape[0] >= self.t)) is not None:
            self.keep(ops.take_rows(x, self.rows))

    def interleave(self) -> None:
        if (x := self.pick(lambda t: len(t.shape) in (1, 2) and t.shape[0] % 2 == 0)) is not None:
            self.keep(ops.interleave(x, heads=self.rng.choice((1, x.type.shape[0] // 2))))

    def cast(self) -> None:
        if (x := self.pick(_float)) is not None:
            self.keep(ops.cast(x, dtype=self.rng.choice(("f32", "f32", "f16", "bf16"))))

    def embed(self) -> None:
        table = self.weight(self.rng.choice(("f32", "f32", "bf16", "f16")), TABLE_ROWS + 2, self.width)
        rows = ops.embed(self.ids, table)
        self.keep(rows if table.type.dtype == "f32" else ops.cast(rows, dtype="f32"))

    def embed_int8(self) -> None:
        scales = ops.embed(self.ids, self.weight("f32", TABLE_ROWS, -(-self.width // 4)))
        self.keep(ops.dequantize(ops.embed(self.ids, self.weight("i8", TABLE_ROWS, self.width)), scales, group=4))

    def turn(self, d: int) -> Value:
        kind = self.rng.choice(("default", "linear", "llama3", "yarn"))
        freqs = ops.rope_frequencies(
            kind=kind, pairs=d // 2, theta=10000.0, factor=self.rng.choice((1.0, 4.0)), original_context=16
        )
        return ops.rotation(self.pos, freqs, scale=self.rng.choice((1.0, 1.25)))

    def rope(self) -> None:
        x = self.pick(lambda t: t.dtype == "f32" and len(t.shape) == 3 and t.shape[0] == self.t and t.shape[2] % 2 == 0)
        if x is None:
            x = ops.reshape(ops.linear(self.x, self.matrix("f32", 4, self.width)), shape=(self.t, 1, 4))
        turn = self.turn(x.type.shape[2])
        self.keep(ops.rope(x, turn, pairing=self.rng.choice(("half", "interleaved"))))

    def attend(self) -> None:
        """A block as a decoder has it, over a random one of the caches."""
        names = [n for n in self.states if n.endswith("k")]
        x = self.pick(lambda t: t.dtype == "f32" and len(t.shape) == 2 and t.shape[0] == self.t)
        if not names or x is None:
            return
        keys = self.rng.choice(names)
        values = keys[:-1] + "v"
        _, kv_heads, _, d = self.states[keys].type.shape
        heads = {"q": kv_heads * self.rng.choice((1, 2)), "k": kv_heads, "v": kv_heads}
        biased, normed, turn = self.rng.random() < 0.4, self.rng.random() < 0.3, self.turn(d)
        pairing = self.rng.choice(("half", "half", "interleaved"))
        made: dict[str, Value] = {}
        for part, n in heads.items():
            y = ops.linear(x, self.matrix("f32", n * d, x.type.shape[1]), name=f"{part}.flat")
            if biased:
                y = ops.add(y, self.weight("f32", n * d))
            y = ops.reshape(y, shape=(self.t, n, d), name=part)
            if normed and part != "v":
                y = ops.rmsnorm(y, self.weight("f32", d), eps=1e-5)
            made[part] = y if part == "v" else ops.rope(y, turn, pairing=pairing, name=f"{part}.turned")
        if self.rng.random() < 0.1:
            self.keep(made["q"])  # seen by others than attention
        self.current[keys] = ops.kv_write(self.current[keys], made["k"], self.pos, self.slot)
        self.current[values] = ops.kv_write(self.current[values], made["v"], self.pos, self.slot)
        caches = (self.current[keys], self.current[values])
        window = self.rng.choice((0, 0, 2))
        a = ops.attention(made["q"], *caches, self.pos, self.slot, scale=0.5, window=window)
        self.keep(ops.reshape(a, shape=(self.t, heads["q"] * d)))


_MOVES: tuple[Callable[[_Author], None], ...] = (
    _Author.silu,
    _Author.add,
    _Author.add,
    _Author.mul,
    _Author.rmsnorm,
    _Author.linear,
    _Author.linear,
    _Author.twins,
    _Author.moved,
    _Author.reshape,
    _Author.split,
    _Author.concat,
    _Author.take_rows,
    _Author.interleave,
    _Author.cast,
    _Author.embed,
    _Author.embed_int8,
    _Author.rope,
    _Author.attend,
    _Author.attend,
)


def _float(t: TensorType) -> bool:
    return t.dtype in FLOATS


def _matrix(t: TensorType) -> bool:
    return t.dtype in FLOATS and len(t.shape) == 2
