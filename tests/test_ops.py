"""The op table: complete, honest about types, refusing in words, and each operation equal to a plain definition.

Definitions are written here once more, in float64 and in the most obvious way.
"""

from __future__ import annotations

import cmath
import math
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import VerifyError
from graphllm.ir import Builder, Value, interpret, ops
from graphllm.ir.opdef import OPS, OpDef
from graphllm.ir.ops.precision import round_to_bf16
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType
from tests.random_ir import Weights, fresh_states, plain, random_array, random_inputs, random_module

Array = NDArray[Any]
BF16 = ml_dtypes.bfloat16


def t(dtype: DType, *shape: int) -> TensorType:
    return TensorType(dtype, shape)


# Every operation once or more: operand types, attributes. Index operands are filled with values in range below.
CASES: list[tuple[str, tuple[TensorType, ...], dict[str, Any]]] = [
    ("embed", (t("i32", 3), t("f32", 5, 7)), {}),
    ("embed", (t("i32", 1), t("i8", 5, 3)), {}),
    ("embed", (t("i32", 2), t("bf16", 5, 3)), {}),
    ("rmsnorm", (t("f32", 3, 7), t("f32", 7)), {"eps": 1e-5}),
    ("rmsnorm", (t("f32", 3, 2, 5), t("f32", 5)), {"eps": 1e-6}),
    ("rmsnorm", (t("bf16", 3, 5), t("bf16", 5)), {"eps": 1e-6}),
    ("linear", (t("f32", 3, 7), t("f32", 5, 7)), {}),
    ("linear", (t("bf16", 3, 7), t("bf16", 5, 7)), {}),
    ("linear", (t("f16", 1, 7), t("f16", 5, 7)), {}),
    ("add", (t("f32", 3, 7), t("f32", 3, 7)), {}),
    ("add", (t("f16", 3, 7), t("f16", 7)), {}),
    ("mul", (t("f32", 3, 7), t("f32", 3, 7)), {}),
    ("mul", (t("bf16", 5), t("bf16", 5)), {}),
    ("silu", (t("f32", 3, 7),), {}),
    ("silu", (t("f16", 3, 1),), {}),
    ("silu", (t("bf16"),), {}),
    ("cast", (t("f32", 3, 7),), {"dtype": "bf16"}),
    ("cast", (t("f32"),), {"dtype": "bf16"}),
    ("cast", (t("bf16", 3),), {"dtype": "f16"}),
    ("cast", (t("f16", 1, 3),), {"dtype": "f32"}),
    ("dequantize", (t("i8", 3, 7), t("f32", 3, 3)), {"group": 3}),
    ("dequantize", (t("i8", 3, 8), t("bf16", 4)), {"group": 6}),
    ("group_scales", (t("f32", 3, 7),), {"group": 3, "dtype": "f16"}),
    ("group_scales", (t("bf16", 2, 8),), {"group": 64, "dtype": "f32"}),
    ("quantize_groups", (t("f32", 3, 7), t("f16", 3, 3)), {"group": 3}),
    ("quantize_groups", (t("bf16", 2, 8), t("f32", 2, 1)), {"group": 8}),
    ("quantize_rows", (t("f32", 3, 7),), {"group": 4}),
    ("linear_int8", (t("i8", 3, 7), t("f32", 3, 2), t("i8", 5, 7), t("f16", 5, 2)), {"group": 4}),
    ("linear_int8", (t("i8", 1, 8), t("f32", 1, 1), t("i8", 5, 8), t("f32", 5, 1)), {"group": 64}),
    ("rope_frequencies", (), {"kind": "default", "pairs": 5, "theta": 1e4}),
    ("rotation", (t("i32", 3), t("f32", 5)), {"scale": 1.5}),
    ("rope", (t("f32", 3, 2, 10), t("f32", 3, 5, 2)), {"pairing": "half"}),
    ("rope", (t("bf16", 3, 1, 2), t("bf16", 3, 1, 2)), {"pairing": "interleaved"}),
    ("kv_write", (t("f16", 2, 3, 7, 5), t("f32", 2, 3, 5), t("i32", 2), t("i32", 2)), {}),
    (
        "attention",
        (t("f32", 3, 4, 5), t("f16", 2, 2, 7, 5), t("f16", 2, 2, 7, 5), t("i32", 3), t("i32", 3)),
        {"scale": 0.4},
    ),
    (
        "attention",
        (t("bf16", 1, 1, 2), t("f32", 2, 1, 5, 2), t("f32", 2, 1, 5, 2), t("i32", 1), t("i32", 1)),
        {"scale": 0.4, "window": 2},
    ),
    ("kv_write", (t("i8", 2, 3, 7, 5), t("i8", 2, 3, 5), t("i32", 2), t("i32", 2)), {}),
    (
        "attention_int8",
        (
            t("f32", 3, 4, 5),
            *[t("i8", 2, 2, 7, 5), t("f32", 2, 2, 7, 1)] * 2,
            t("i32", 3),
            t("i32", 3),
        ),
        {"scale": 0.4, "window": 3},
    ),
    ("reshape", (t("i32", 3, 4),), {"shape": (2, 6)}),
    ("reshape", (t("f32", 1),), {"shape": ()}),
    ("split", (t("f32", 3, 7),), {"sizes": (1, 4, 2)}),
    ("split", (t("i8", 7),), {"sizes": (3, 4)}),
    ("concat", (t("bf16", 3, 7), t("bf16", 1, 7)), {}),
    ("concat", (t("i8", 3), t("i8", 1), t("i8", 2)), {}),
    ("top_experts", (t("f32", 3, 7),), {"used": 3, "normalized": True}),
    ("top_experts", (t("bf16", 1, 2),), {"used": 2, "normalized": False}),
    ("expert_linear", (t("f32", 3, 7), t("f32", 10, 7), t("i32", 3, 2)), {"experts": 2}),
    ("expert_linear", (t("f16", 3, 2, 7), t("f16", 6, 7), t("i32", 3, 2)), {"experts": 3}),
    ("expert_sum", (t("f32", 3, 2, 7), t("f32", 3, 2)), {}),
    ("expert_sum", (t("bf16", 1, 3, 5), t("bf16", 1, 3)), {}),
    ("take_rows", (t("f32", 5, 7), t("i32", 3)), {}),
    ("interleave", (t("f16", 12, 5),), {"heads": 3}),
    ("interleave", (t("i8", 6),), {"heads": 1}),
]


def array(type_: TensorType, seed: str) -> Array:
    """Values of the type; i32 ones are small enough to be any index of the cases above."""
    if type_.dtype == "i32":
        return np.random.default_rng(len(seed)).integers(0, 2, type_.shape).astype(np.int32)
    return random_array(type_, seed)


def operands(types: tuple[TensorType, ...]) -> list[Array]:
    return [array(x, f"{i}{x}") for i, x in enumerate(types)]


def case_id(case: object) -> str | None:
    return case if isinstance(case, str) else None


def test_the_cases_cover_the_table() -> None:
    assert {name for name, _, _ in CASES} == set(OPS)
    assert set(ops.__all__) == set(OPS)


@pytest.mark.parametrize("entry", OPS.values(), ids=lambda e: e.name)
def test_an_entry_is_complete(entry: OpDef) -> None:
    assert entry.reference.__doc__, "no docstring: nobody can say what it means"
    assert entry.reference.__name__ == entry.name
    kinds = {"int", "float", "bool", "str", "ints"}
    assert all(p.kind in kinds for p in entry.attrs.values())
    assert all(p.default is None or entry.complete({**_required(entry), k: p.default}) for k, p in entry.attrs.items())
    for i in (entry.updates, entry.views, *entry.reuses):
        assert i is None or 0 <= i < entry.operands
    assert entry.updates is None or entry.views is None
    assert not entry.reuses or entry.updates is entry.views is None
    assert entry.cost is not None


def _required(entry: OpDef) -> dict[str, Any]:
    return next(attrs for name, _, attrs in CASES if name == entry.name)


@pytest.mark.parametrize(("name", "types", "attrs"), CASES, ids=case_id)
def test_infer_agrees_with_the_reference(name: str, types: tuple[TensorType, ...], attrs: dict[str, Any]) -> None:
    entry = OPS[name]
    complete = entry.complete(attrs)
    inferred = entry.result_types(types, complete)
    before = operands(types)
    got = entry.reference(*operands(types), **complete)
    got = got if isinstance(got, tuple) else (got,)
    assert [(a.shape, a.dtype) for a in got] == [(x.shape, x.numpy) for x in inferred]
    assert isinstance(entry.cost(types, complete), int)
    assert entry.cost(types, complete) >= 0
    arrays = operands(types)
    entry.reference(*arrays, **complete)
    assert all(np.array_equal(plain(a), plain(b)) for a, b in zip(arrays, before, strict=True)), "it wrote its operands"
    if entry.updates is not None:
        assert inferred[0] == types[entry.updates]
    if entry.views is not None:
        assert sum(x.numel for x in inferred) == types[entry.views].numel


@pytest.mark.parametrize(("name", "types", "attrs"), CASES, ids=case_id)
def test_recording_gives_what_computing_gives(name: str, types: tuple[TensorType, ...], attrs: dict[str, Any]) -> None:
    entry = OPS[name]
    with Builder() as b:
        values = [b.input(f"x{i}", x) for i, x in enumerate(types)]
        made = entry(*values, **attrs)
        f = b.function("f", made if isinstance(made, tuple) else (made,))
    arrays = operands(types)
    expected = entry(*arrays, **attrs) if arrays else entry.reference(**attrs)
    got, _ = interpret(f, {f"x{i}": a for i, a in enumerate(arrays)}, Weights(), {})
    for a, e in zip(got, expected if isinstance(expected, tuple) else (expected,), strict=True):
        np.testing.assert_array_equal(plain(a), plain(e))


@pytest.mark.parametrize(("name", "types", "attrs"), CASES, ids=case_id)
def test_wrong_operands_are_refused_in_words_or_fit(
    name: str, types: tuple[TensorType, ...], attrs: dict[str, Any]
) -> None:
    """Each operand in turn with another rank, dtype or size: VerifyError, or a type the reference agrees with."""
    entry = OPS[name]
    complete = entry.complete(attrs)
    refusals: list[str] = []
    for i, x in enumerate(types):
        others = [TensorType(d, x.shape) for d in get_args(DType) if d != x.dtype]
        others += [TensorType(x.dtype, s) for s in ((), (*x.shape, 1), x.shape[1:], (2,) * len(x.shape))]
        others += [TensorType(x.dtype, tuple(n + (j == k) for k, n in enumerate(x.shape))) for j in range(len(x.shape))]
        for other in others:
            changed = (*types[:i], other, *types[i + 1 :])
            try:
                inferred = entry.result_types(changed, complete)
            except VerifyError as error:
                refusals.append(str(error))
                continue
            with np.errstate(all="ignore"):
                got = entry.reference(*operands(changed), **complete)
            shapes = [(a.shape, a.dtype) for a in (got if isinstance(got, tuple) else (got,))]
            assert shapes == [(r.shape, r.numpy) for r in inferred], f"{name} of {', '.join(map(str, changed))}"
    unfussy = {"reshape", "rope_frequencies", "cast", "silu"}  # one operand of nearly any type, or none
    assert refusals or name in unfussy
    assert all("; expected " in r and "\n" not in r for r in refusals)
    with pytest.raises(VerifyError, match="wrong number of operands"):
        entry.result_types(types[: entry.operands - 1] if types else (t("f32", 1),), complete)
    if not entry.variadic:
        with pytest.raises(VerifyError, match="wrong number of operands"):
            entry.result_types((*types, t("f32", 1)), complete)


def test_attributes_are_checked() -> None:
    silu, rmsnorm, reshape = OPS["silu"], OPS["rmsnorm"], OPS["reshape"]
    for entry, attrs, words in [
        (silu, {"eps": 1.0}, "silu: unknown attribute eps; expected none"),
        (rmsnorm, {}, "rmsnorm: missing attribute eps; expected a finite number"),
        (rmsnorm, {"eps": "1"}, "rmsnorm: attribute eps; expected a finite number, got '1'"),
        (rmsnorm, {"eps": True}, "rmsnorm: attribute eps; expected a finite number, got True"),
        (rmsnorm, {"eps": math.inf}, "rmsnorm: attribute eps; expected a finite number, got inf"),
        (rmsnorm, {"eps": math.nan}, "rmsnorm: attribute eps; expected a finite number, got nan"),
        (reshape, {"shape": 4}, "reshape: attribute shape; expected a list of integers, got 4"),
        (reshape, {"shape": (True,)}, "reshape: attribute shape; expected a list of integers, got (True,)"),
    ]:
        with pytest.raises(VerifyError) as error:
            entry.complete(attrs)
        assert str(error.value) == words
    assert rmsnorm.complete({"eps": 1}) == {"eps": 1.0}
    assert reshape.complete({"shape": [2, 3]}) == {"shape": (2, 3)}


def test_recording_needs_a_builder() -> None:
    with pytest.raises(VerifyError, match="with Builder"):
        ops.silu(Value("x", t("f32", 1)))


# Published unit vectors (a course's own tests of its operators)


def test_published_vectors() -> None:
    x, y = np.float32([1, 2, 3]), np.float32([2, 3, 4])
    np.testing.assert_allclose(ops.mul(y, ops.silu(x)), [1.4621172, 5.2847824, 11.43089], rtol=1e-6)
    normed = ops.rmsnorm(np.float32([[1, 2], [3, 4]]), np.float32([1, 2]), eps=1e-6)
    np.testing.assert_allclose(normed.ravel(), [0.6324554, 2.5298216, 0.8485281, 2.2627416], rtol=1e-6)
    a = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    product = ops.add(np.float32([[1, 2], [3, 4]]), ops.linear(a, a))
    assert product.ravel().tolist() == [15, 34, 35, 81]


def test_published_feed_forward() -> None:
    """Residual and normed input all ones [4,2], gate, up and down all the same 0.1 to 0.6."""
    residual = np.ones((4, 2), np.float32)
    up = np.float32([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    down = np.float32([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    h = ops.rmsnorm(residual, np.ones(2, np.float32), eps=1e-6)
    ffn = ops.mul(ops.silu(ops.linear(h, up)), ops.linear(h, up))
    out = ops.add(residual, ops.linear(ffn, down))
    np.testing.assert_allclose(out, np.tile([1.3429964, 1.7290739], (4, 1)), rtol=1e-6)


# Plain definitions


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 3, 5)])
def test_rmsnorm_by_definition(shape: tuple[int, ...]) -> None:
    x, w = rng(1).standard_normal(shape), rng(2).standard_normal(shape[-1])
    expected = np.empty(shape)
    for i in np.ndindex(shape[:-1]):
        mean = sum(v * v for v in x[i].tolist()) / shape[-1]
        expected[i] = [v / math.sqrt(mean + 0.01) * g for v, g in zip(x[i].tolist(), w.tolist(), strict=True)]
    np.testing.assert_allclose(ops.rmsnorm(x, w, eps=0.01), expected, rtol=1e-12)
    single = ops.rmsnorm(x.astype(np.float32), w.astype(np.float32), eps=0.01)
    np.testing.assert_allclose(single, expected, rtol=1e-5)


def test_elementwise_and_products_by_definition() -> None:
    x, w, b = rng(1).standard_normal((3, 7)), rng(2).standard_normal((5, 7)), rng(3).standard_normal(7)
    np.testing.assert_allclose(ops.silu(x), [[v / (1 + math.exp(-v)) for v in row] for row in x.tolist()], rtol=1e-12)
    expected = [[sum(p * q for p, q in zip(r, s, strict=True)) for s in w.tolist()] for r in x.tolist()]
    np.testing.assert_allclose(ops.linear(x, w), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(ops.add(x, b), [[p + q for p, q in zip(r, b, strict=True)] for r in x.tolist()])
    np.testing.assert_array_equal(ops.mul(x, x), x**2)


def test_silu_at_the_ends() -> None:
    out = ops.silu(np.float32([-1e4, -200, 0, 200, 1e4]))
    np.testing.assert_array_equal(out, np.float32([0, 0, 0, 200, 1e4]))


@pytest.mark.parametrize("pairing", ["interleaved", "half"])
@pytest.mark.parametrize("d", [2, 6, 10])
def test_rope_turns_complex_numbers(pairing: str, d: int) -> None:
    x, pos = rng(d).standard_normal((4, 3, d)), np.int32([0, 1, 7, 1000])
    freqs = rng(d + 1).random(d // 2)
    out = ops.rope(x, ops.rotation(pos, freqs, scale=1.25), pairing=pairing)
    for row, head, i in np.ndindex(4, 3, d // 2):
        a, b = (2 * i, 2 * i + 1) if pairing == "interleaved" else (i, i + d // 2)
        turned = 1.25 * complex(x[row, head, a], x[row, head, b]) * cmath.exp(1j * int(pos[row]) * freqs[i])
        assert out[row, head, a] == pytest.approx(turned.real, abs=1e-12)
        assert out[row, head, b] == pytest.approx(turned.imag, abs=1e-12)


def test_interleaving_rows_turns_one_pairing_into_the_other() -> None:
    x, turn = rng(1).standard_normal((3, 2, 10)), rng(2).standard_normal((3, 5, 2))

    def heads_interleaved(y: Array) -> Array:
        return np.stack([ops.interleave(row.reshape(20), heads=2).reshape(2, 10) for row in y])

    half = heads_interleaved(ops.rope(x, turn, pairing="half"))
    np.testing.assert_array_equal(half, ops.rope(heads_interleaved(x), turn, pairing="interleaved"))
    assert ops.interleave(np.arange(12), heads=2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize("theta", [1e4, 5e5, 1e6])
@pytest.mark.parametrize("d", [2, 10, 64, 128])
def test_rope_frequencies_by_formula(theta: float, d: int) -> None:
    pairs = d // 2
    plain_ = [theta ** (-2 * i / d) for i in range(pairs)]

    def got(kind: str, **attrs: Any) -> Array:
        return ops.rope_frequencies.reference(kind=kind, pairs=pairs, theta=theta, **attrs)

    np.testing.assert_allclose(got("default"), plain_, rtol=2e-6)
    np.testing.assert_allclose(got("linear", factor=4.0), [f / 4 for f in plain_], rtol=2e-6)

    for factor, original in ((8.0, 8192), (32.0, 8192), (8.0, 16)):
        expected: list[float] = []
        for f in plain_:
            wave = 2 * math.pi / f
            if wave < original / 4:
                expected.append(f)
            elif wave > original / 1:
                expected.append(f / factor)
            else:
                smooth = (original / wave - 1) / (4 - 1)
                expected.append((1 - smooth) * f / factor + smooth * f)
        scaled = got("llama3", factor=factor, original_context=original, low_freq_factor=1.0, high_freq_factor=4.0)
        np.testing.assert_allclose(scaled, expected, rtol=5e-6)

    for truncate in (True, False):

        def dimension(turns: float) -> float:
            return d * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = dimension(32), dimension(1)
        if truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        high += 0.001 * (low == high)
        ramp = [min(1.0, max(0.0, (i - low) / (high - low))) for i in range(pairs)]
        expected = [f / 4 * r + f * (1 - r) for f, r in zip(plain_, ramp, strict=True)]
        scaled = got("yarn", factor=4.0, original_context=4096, truncate=truncate)
        np.testing.assert_allclose(scaled, expected, rtol=2e-6)


@pytest.mark.parametrize("bad", [{"kind": "ntk"}, {"theta": 1.0}, {"factor": 0.0}, {"kind": "llama3"}, {"pairs": 0}])
def test_rope_frequencies_refuses(bad: dict[str, Any]) -> None:
    entry = OPS["rope_frequencies"]
    with pytest.raises(VerifyError, match="; expected "):
        entry.result_types((), entry.complete({"kind": "default", "pairs": 4, "theta": 1e4} | bad))


@pytest.mark.parametrize("window", [0, 1, 3, 100])
@pytest.mark.parametrize(("h", "k"), [(1, 1), (6, 2), (4, 4), (5, 1)])
def test_attention_is_a_dense_masked_softmax(h: int, k: int, window: int) -> None:
    b, s, d = 3, 9, 5
    pos, slot = np.int32([0, 8, 4, -1, 2]), np.int32([2, 0, 0, 1, 1])
    q = rng(h).standard_normal((5, h, d))
    keys, values = rng(k).standard_normal((b, k, s, d)), rng(window).standard_normal((b, k, s, d))
    out = ops.attention(q, keys, values, pos, slot, scale=0.3, window=window)
    for row, head in np.ndindex(5, h):
        group = head // (h // k)
        scores = keys[slot[row], group] @ q[row, head] * 0.3
        seen = [j <= pos[row] and (window == 0 or j > pos[row] - window) for j in range(s)]
        if not any(seen):
            np.testing.assert_array_equal(out[row, head], 0)
            continue
        p = np.where(seen, np.exp(scores - scores[seen].max()), 0)
        np.testing.assert_allclose(out[row, head], p / p.sum() @ values[slot[row], group], rtol=1e-11, atol=1e-13)


def test_attention_never_sees_what_lies_beyond() -> None:
    pos, slot = np.int32([3, -1, 6]), np.int32([1, 0, 1])
    q = rng(0).standard_normal((3, 4, 6)).astype(np.float32)
    keys, values = (rng(i).standard_normal((2, 2, 8, 6)).astype(np.float32) for i in (1, 2))
    clean = ops.attention(q, keys, values, pos, slot, scale=0.3, window=4)
    for cache in (keys, values):
        cache[0] = np.nan
        cache[1, :, 7:] = np.inf
        cache[1, :, :0] = np.nan
    np.testing.assert_array_equal(clean, ops.attention(q, keys, values, pos, slot, scale=0.3, window=4))
    np.testing.assert_array_equal(clean[1], 0)


def test_kv_write_writes_live_rows_only() -> None:
    cache, x = rng(1).standard_normal((2, 3, 5, 4)), rng(2).standard_normal((3, 3, 4))
    out = ops.kv_write(cache, x, np.int32([4, -1, 0]), np.int32([1, 0, 1]))
    expected = cache.copy()
    expected[1, :, 4], expected[1, :, 0] = x[0], x[2]
    np.testing.assert_array_equal(out, expected)
    narrow = ops.kv_write(cache.astype(np.float16), x.astype(np.float32), np.int32([4, 3, 0]), np.int32([1, 0, 1]))
    np.testing.assert_array_equal(narrow[0, :, 3], x[1].astype(np.float32).astype(np.float16))


@pytest.mark.parametrize(("n", "k", "group"), [(3, 7, 3), (2, 8, 4), (4, 5, 64), (1, 1, 1)])
def test_dequantize_along_rows(n: int, k: int, group: int) -> None:
    q = rng(n).integers(-127, 128, (n, k)).astype(np.int8)
    scale = rng(k).random((n, -(-k // group))).astype(np.float32)
    expected = [[np.float32(q[i, j]) * scale[i, j // group] for j in range(k)] for i in range(n)]
    np.testing.assert_array_equal(ops.dequantize(q, scale, group=group), np.float32(expected))


@pytest.mark.parametrize(("n", "k", "group"), [(3, 8, 6), (2, 6, 12), (5, 3, 1)])
def test_dequantize_flat_groups_straddle_rows(n: int, k: int, group: int) -> None:
    q = rng(n).integers(-127, 128, (n, k)).astype(np.int8)
    scale = rng(k).random(n * k // group).astype(np.float32)
    expected = [[np.float32(q[i, j]) * scale[(i * k + j) // group] for j in range(k)] for i in range(n)]
    np.testing.assert_array_equal(ops.dequantize(q, scale, group=group), np.float32(expected))


INT8_SIZES = [(3, 7, 3), (2, 128, 64), (4, 5, 64), (1, 1, 1), (5, 100, 32)]


@pytest.mark.parametrize("dtype", ["f16", "f32"])
@pytest.mark.parametrize(("n", "k", "group"), INT8_SIZES)
def test_weights_as_int8_are_never_off_by_more_than_half_a_step(n: int, k: int, group: int, dtype: str) -> None:
    """Whatever their size: ordinary, tiny (where an f16 scale is subnormal), huge, zero."""
    for size in (1.0, 3e-5, 1e-3, 1e5, 0.0):
        w = (rng(k).standard_normal((n, k)) * size).astype(np.float32)
        scale = ops.group_scales(w, group=group, dtype=dtype)
        q = ops.quantize_groups(w, scale, group=group)
        assert (q.dtype, q.min(initial=0) >= -127, scale.dtype) == (np.int8, True, NUMPY_DTYPES[dtype])  # type: ignore[index]
        for i in range(n):
            for g in range(-(-k // group)):
                part, step = w[i, g * group : (g + 1) * group].astype(np.float64), float(scale[i, g])
                ideal = np.abs(part).max() / 127
                assert ideal * (1 - 2e-3) <= step or step >= ideal - 2**-25
                assert step <= ideal * (1 + 2e-3) + 2**-24
                got = q[i, g * group : (g + 1) * group] * step
                assert np.abs(got - part).max() <= step / 2 * (1 + 1e-6)


def test_weights_as_int8_of_zeros_and_beyond_f16() -> None:
    w = np.zeros((1, 8), np.float32)
    w[0, 4:] = 3e7
    scale = ops.group_scales(w, group=4, dtype="f16")
    assert scale.tolist() == [[0, 65504]]
    assert ops.quantize_groups(w, scale, group=4).tolist() == [[0, 0, 0, 0, 127, 127, 127, 127]]
    assert ops.group_scales(w, group=4, dtype="f32")[0, 1] == np.float32(3e7) / np.float32(127)


def test_rows_as_int8_round_to_nearest_even() -> None:
    x = np.float32([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -127, 3.4]])
    q, scale = ops.quantize_rows(x, group=8)
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -127, 3]]
    assert scale.tolist() == [[1]]
    q, scale = ops.quantize_rows(np.float32([[0, 0, 4, -4, 1]]), group=2)
    assert q.tolist() == [[0, 0, 127, -127, 127]]
    np.testing.assert_array_equal(scale, np.float32([[0, 4, 1]]) / np.float32(127))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_as_int8_keep_what_is_not_finite_in_sight(bad: float) -> None:
    x = np.ones((1, 8), np.float32)
    x[0, 2] = bad
    with np.errstate(all="ignore"):
        q, scale = ops.quantize_rows(x, group=4)
        y = ops.linear_int8(q, scale, np.ones((1, 8), np.int8), np.ones((1, 2), np.float32), group=4)
    assert np.isfinite(scale[0]).tolist() == [False, True]
    assert not np.isfinite(y).any()


@pytest.mark.parametrize(("n", "k", "group"), INT8_SIZES)
def test_linear_int8(n: int, k: int, group: int) -> None:
    q, w = (rng(s).integers(-127, 128, (rows, k)).astype(np.int8) for s, rows in ((k, 2), (n, n)))
    a, b = (rng(s).random((rows, -(-k // group))).astype(np.float32) for s, rows in ((1, 2), (2, n)))

    def product(t: int, i: int) -> float:
        return sum(int(q[t, j]) * int(w[i, j]) * float(a[t, j // group]) * float(b[i, j // group]) for j in range(k))

    expected = [[product(t, i) for i in range(n)] for t in range(2)]
    np.testing.assert_allclose(ops.linear_int8(q, a, w, b, group=group), expected, rtol=1e-4, atol=1e-2)


def test_data_movement() -> None:
    x = np.arange(12).reshape(3, 4)
    assert [p.tolist() for p in ops.split(x, sizes=(1, 3))] == [[[0], [4], [8]], [[1, 2, 3], [5, 6, 7], [9, 10, 11]]]
    assert ops.concat(x[:1], x[2:], x[:1])[:, 0].tolist() == [0, 8, 0]
    assert ops.take_rows(x, np.int32([2, 2, 0]))[:, 0].tolist() == [8, 8, 0]
    assert ops.embed(np.int32([1, 0]), x)[:, 1].tolist() == [5, 1]
    assert ops.reshape(x, shape=(2, 6)).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_rounding_to_bf16_is_to_nearest_even_for_every_kind_of_bits() -> None:
    bits = rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    ends = np.uint32([0, 0x80000000, 1, 0x7F7FFFFF, 0x7F7F8000, 0x7F7F7FFF, 0x7F800000, 0xFF800000, 0x007FFFFF])
    ties = (rng(2).integers(0, 2**16, 5000, dtype=np.uint32) << 16) | 0x8000
    nans = np.uint32([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0xFF800001, 0x7FFFFFFF])
    x = np.concatenate((bits, ends, ties, ties + 1, ties - 1, nans)).view(np.float32)
    with np.errstate(invalid="ignore"):
        expected = x.astype(BF16)
    got = round_to_bf16(x)
    nan = np.isnan(x)
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
    np.testing.assert_array_equal(got.view(np.uint16)[~nan], expected.view(np.uint16)[~nan])
    assert round_to_bf16(x[::2].reshape(-1, 1)).shape == (len(x[::2]), 1), "strided and shaped input"


def test_casts_are_numpys() -> None:
    x = np.float32([[1e-8, 6e4, 7e4, -3.14159, np.inf, 1e-45]])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(ops.cast(x, dtype="f16"), x.astype(np.float16))
    np.testing.assert_array_equal(ops.cast(x.astype(np.float64), dtype="bf16"), x.astype(BF16))
    assert ops.cast(x.astype(BF16), dtype="f32").dtype == NUMPY_DTYPES["f32"]


# Old contents of what is reused


@pytest.mark.parametrize("seed", range(60))
def test_what_caches_hold_beyond_the_positions_written_does_not_matter(seed: int) -> None:
    """Each step writes positions from 0 and reads no others: zeros or anything else in the rest, the same bits."""
    module = random_module(seed)
    outcomes: list[list[Array]] = []
    for fill in (0.0, float("nan"), 6e4):
        states, results = fresh_states(module, fill), list[Array]()
        with np.errstate(all="ignore"):
            for function in (*module.functions.values(),) * 2:
                inputs = random_inputs(function, module, seed)
                room = min((s.type.shape[2] for s in module.states.values()), default=1)
                inputs["pos"] = np.int32([i if i < room else -1 for i in range(len(inputs["pos"]))])
                inputs["slot"][:] = 0
                out, states = interpret(function, inputs, Weights(), states)
                results += out
        outcomes.append(results)
    for other in outcomes[1:]:
        for a, b in zip(outcomes[0], other, strict=True):
            np.testing.assert_array_equal(plain(a), plain(b))
