"""Each operation equal to a plain definition, written here once more, in float64 and in the most obvious way."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import VerifyError
from graphllm.ir import interpret, ops
from graphllm.ir.opdef import OPS
from tests.random_arrays import Weights, fresh_states, plain, random_inputs
from tests.random_ir import random_module

Array = NDArray[Any]

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


def test_data_movement() -> None:
    x = np.arange(12).reshape(3, 4)
    assert [p.tolist() for p in ops.split(x, sizes=(1, 3))] == [[[0], [4], [8]], [[1, 2, 3], [5, 6, 7], [9, 10, 11]]]
    assert ops.concat(x[:1], x[2:], x[:1])[:, 0].tolist() == [0, 8, 0]
    assert ops.take_rows(x, np.int32([2, 2, 0]))[:, 0].tolist() == [8, 8, 0]
    assert ops.embed(np.int32([1, 0]), x)[:, 1].tolist() == [5, 1]
    assert ops.reshape(x, shape=(2, 6)).tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


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
