"""The op table: complete, honest about types, refusing in words; computing and recording are one."""

from __future__ import annotations

import math
from typing import Any, get_args

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import VerifyError
from graphllm.ir import Builder, Value, interpret, ops
from graphllm.ir.opdef import OPS, OpDef
from graphllm.ir.types import DType, TensorType
from tests.random_arrays import Weights, plain, random_array

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
