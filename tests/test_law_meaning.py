"""Law 1: a pass keeps the meaning. Interpreted before and after, on random modules and on traced models.

Passes that only move, rename or group operations are exact. Those that regroup products (their sums are added up in
another order) are held to 1e-9 in double precision and to 1e-5 in single.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.numpy.target import NUMPY
from graphllm.frontends.trace import Steps, trace
from graphllm.ir import Module, TensorType, Weight, interpret, parse_module, print_module, verify
from graphllm.ir.types import DType
from graphllm.passes.cast import cast
from graphllm.passes.manager import Pass, run_passes
from graphllm.passes.pipeline import lowering, portable
from tests.model_zoo import ZOO, random_tensors
from tests.random_arrays import Outcome, Weights, plain, run_steps
from tests.random_ir import random_module
from tests.reference_forward import reference_logits

Array = NDArray[Any]

REGROUPS = {"interleave-rope", "merge-linears"}  # products over permuted or stacked weights
RELAYS = {"interleave-rope"}  # keeps caches in another order
PASSES = (*portable(), *lowering(NUMPY))


def assert_same(before: Outcome, after: Outcome, tolerance: float, *, states: bool) -> None:
    pairs = list(zip(before[0], after[0], strict=True))
    flat = [(a, b) for xs, ys in pairs for a, b in zip(xs, ys, strict=True)]
    if states:
        assert before[1].keys() == after[1].keys()
        flat += [(before[1][n], after[1][n]) for n in before[1]]
    for a, b in flat:
        assert a.dtype == b.dtype
        close(plain(a), plain(b), tolerance)


def close(a: Array, b: Array, tolerance: float) -> None:
    if tolerance == 0:
        np.testing.assert_array_equal(a, b)
    else:
        finite = np.abs(a[np.isfinite(a)])
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * float(finite.max(initial=1e-30)))


def applied(module: Module, passes: Iterable[Pass]) -> Module:
    """The module after passes; parsed and printed on the way, so that nothing but the text carries meaning."""
    out, _ = run_passes(module, tuple(passes))
    again = parse_module(print_module(out))
    verify(again)
    return again


# Random modules

SEEDS = range(120)


@pytest.mark.parametrize("step", PASSES, ids=lambda p: p.name)
def test_each_pass_alone_keeps_the_meaning_of_random_modules(step: Pass) -> None:
    regroups = step.name in REGROUPS
    changed = 0
    for seed in SEEDS:
        kernels = seed % 3 == 2
        module = random_module(seed, kernels=kernels)
        after = applied(module, [step])
        changed += print_module(after) != print_module(module)
        weights = Weights(wide=regroups)
        before = run_steps(module, weights, seed, wide=regroups)
        result = run_steps(after, weights, seed, wide=regroups)
        assert_same(before, result, 1e-9 if regroups else 0, states=step.name not in RELAYS)
    assert changed > 5, "the pass found nothing to do: these modules prove nothing"


@pytest.mark.parametrize("block", range(4))
def test_the_whole_pipeline_keeps_the_meaning_of_random_modules(block: int) -> None:
    for seed in range(1000 + 25 * block, 1000 + 25 * (block + 1)):
        module = random_module(seed, kernels=seed % 5 == 0, most_ops=20)
        after = applied(module, PASSES)
        assert all(f.arena is not None for f in after.functions.values())
        weights = Weights(wide=True)
        assert_same(
            run_steps(module, weights, seed, wide=True), run_steps(after, weights, seed, wide=True), 1e-9, states=False
        )


def test_passes_in_any_order_keep_the_meaning() -> None:
    anywhere = [p for p in PASSES if p.name not in ("schedule", "plan-memory")]
    for seed in range(2000, 2040):
        rng = np.random.default_rng(seed)
        order = [anywhere[i] for i in rng.permutation(len(anywhere))]
        module = random_module(seed)
        after = applied(module, [*order, *PASSES[-2:]])
        weights = Weights(wide=True)
        before = run_steps(module, weights, seed, wide=True)
        assert_same(before, run_steps(after, weights, seed, wide=True), 1e-9, states=False)


# Models

STEPS = Steps(context=24, slots=2, prefill=(5, 8), score=9)


def traced(name: str, stored: DType = "f32") -> tuple[Module, Weights]:
    """A model of the zoo traced over weights of a dtype, and its random tensors."""
    tensors = random_tensors(ZOO[name], seed=sum(map(ord, name)))
    arrays = {n: a.astype(TensorType(stored, ()).numpy) if a.ndim == 2 else a for n, a in tensors.items()}
    weights = {n: Weight(n, TensorType("f32" if a.ndim == 1 else stored, a.shape), source=n) for n, a in arrays.items()}
    return trace(ZOO[name], weights, 0, STEPS), Weights(arrays)


def run_model(
    module: Module, weights: Weights, ids: list[int], *, wide: bool = False, slot: int = 1
) -> tuple[Array, dict[str, Array]]:
    """Logits of a prompt by the score function, then some by decode; states start full of what must not matter."""
    states = {n: np.full(s.type.shape, 7.5, np.float64 if wide else np.float32) for n, s in module.states.items()}
    rows: list[Array] = []
    at = 0
    for function, t in (("score_9", 9), ("decode", 1), ("decode_2", 2), ("prefill_5", 5)):
        live = min(t, 1 if function == "decode_2" else 3 if function == "prefill_5" else t)
        where = 0 if function != "decode_2" else 1  # the other row is a blank
        inputs = {n: np.zeros(t, np.int32) for n in ("ids", "slot")} | {"pos": np.full(t, -1, np.int32)}
        inputs["ids"][where : where + live] = ids[at : at + live]
        inputs["pos"][where : where + live] = np.arange(at, at + live)
        inputs["slot"][:] = slot
        inputs["rows"] = np.array([live - 1], np.int32)
        f = module.functions[function]
        (logits,), states = interpret(f, {v.name: inputs[v.name] for v in f.inputs}, weights, states, wide=wide)
        rows.append(logits if function.startswith("prefill") else logits[where : where + live])
        at += live
    return np.concatenate(rows), states


IDS = [1, 5, 9, 33, 7, 7, 21, 2, 60, 14, 3, 44, 1, 0]
SEEN = [*range(11), 13]  # of IDS; the chunk gives only its last row


@pytest.mark.parametrize("name", ZOO)
def test_traced_functions_compute_what_the_reference_computes(name: str) -> None:
    module, weights = traced(name)
    verify(module)
    expected = reference_logits(ZOO[name], random_tensors(ZOO[name], seed=sum(map(ord, name))), IDS)[SEEN]
    # frequencies are f32 by definition, so even in double precision angles carry their rounding
    close(expected, run_model(module, weights, IDS, wide=True)[0], 1e-5)
    close(expected, run_model(module, weights, IDS)[0], 1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_every_pass_keeps_the_meaning_of_models(name: str) -> None:
    module, weights = traced(name)
    wide = run_model(module, weights, IDS, wide=True)[0]
    current = run_model(module, weights, IDS)[0]
    for step in PASSES:
        new, (report,) = run_passes(module, [step])
        if not report.changed:
            continue
        result = run_model(new, weights, IDS)[0]
        close(current, result, 1e-5 if step.name in REGROUPS else 0)
        module, current = new, result
    close(wide, run_model(module, weights, IDS, wide=True)[0], 1e-9)


@pytest.mark.parametrize("name", ["plain", "tied", "everything"])
@pytest.mark.parametrize("stored", ["bf16", "f16"])
def test_narrow_checkpoints_keep_their_meaning(name: str, stored: DType) -> None:
    module, weights = traced(name, stored)
    after, _ = run_passes(module, PASSES)
    held = [w.type.dtype for w in after.stored_weights() if len(w.type.shape) == 2]
    assert set(held) == {stored}, "something widened the weights"
    close(run_model(module, weights, IDS, wide=True)[0], run_model(after, weights, IDS, wide=True)[0], 1e-9)


def rounded(weights: Weights, dtype: type[Any]) -> Weights:
    tensors = weights.tensors
    assert tensors is not None
    return Weights({n: a.astype(dtype).astype(np.float32) if a.ndim == 2 else a for n, a in tensors.items()})


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_a_storage_dtype_means_matrices_rounded_by_hand(name: str, dtype: DType) -> None:
    module, weights = traced(name)
    after, _ = run_passes(module, portable(dtype))
    matrices = [w for w in after.stored_weights() if len(w.type.shape) == 2]
    assert {w.type.dtype for w in matrices} == {dtype}
    by_hand = rounded(weights, ml_dtypes.bfloat16 if dtype == "bf16" else np.float16)
    expected = run_model(module, by_hand, IDS, wide=True)[0]
    close(expected, run_model(after, weights, IDS, wide=True)[0], 1e-9)
    assert np.abs(expected - run_model(module, weights, IDS, wide=True)[0]).max() > 1e-6, "rounding changed nothing"


def test_casting_to_f32_keeps_the_meaning_and_drops_the_conversions() -> None:
    module, weights = traced("everything", "bf16")
    after, _ = run_passes(module, portable("f32"))
    assert not any(op.name == "cast" for f in after.functions.values() for op in f.walk())
    close(run_model(module, weights, IDS, wide=True)[0], run_model(after, weights, IDS, wide=True)[0], 1e-9)


def test_casting_random_modules_to_f32_is_exact() -> None:
    changed = 0
    for seed in range(3000, 3100):
        module = random_module(seed)
        after = applied(module, [Pass("cast", lambda m: cast(m, "f32"))])
        changed += print_module(after) != print_module(module)
        weights = Weights()
        assert_same(run_steps(module, weights, seed), run_steps(after, weights, seed), 0, states=True)
    assert changed > 20
