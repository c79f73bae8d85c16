"""Operations that round: int8 groups and rows, their products, bf16 and casts, against plain arithmetic."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from graphllm.ir import ops
from graphllm.ir.ops.precision import round_to_bf16
from graphllm.ir.types import NUMPY_DTYPES
from tests.test_ops_by_definition import rng

BF16 = ml_dtypes.bfloat16


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


def test_weights_as_int8_round_to_nearest_even() -> None:
    w = np.float32([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127, 3.5]])
    scale = ops.group_scales(w, group=9, dtype="f16")
    assert scale.tolist() == [[1]]
    assert ops.quantize_groups(w, scale, group=9).tolist() == [[127, 0, 2, 2, 0, -2, -2, -127, 4]]


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
