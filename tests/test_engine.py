"""Sequences on the NumPy device: however a prompt is cut and whatever lies around it, a row's logits are its own.

``close`` holds logits to the oracle and to each other; everything called the same is the same bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.runtime.device import Row
from graphllm.runtime.engine import Engine
from graphllm.runtime.numpy_device import NumpyDevice
from tests.lowered_models import Lowered, Storage, engine, lowered
from tests.model_zoo import ZOO
from tests.reference_forward import reference_logits

Array = NDArray[Any]
BOUND = 2e-5  # of the largest logit
SOME = ("odd_sizes", "odd_interleaved", "window_mixed", "everything")
LENGTH = 40


def prompt(model: Lowered, length: int = LENGTH, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.config.vocab, length).tolist()


def close(got: Array, want: Array) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= BOUND * np.abs(want).max()


def numpy_device(engine: Engine) -> NumpyDevice:
    assert isinstance(engine.device, NumpyDevice)
    return engine.device


def forget(engine: Engine) -> None:
    """NaN at every position of the cache that no sequence holds."""
    for cache in numpy_device(engine).states.values():
        for slot, length in enumerate(engine.lengths):
            cache[slot, :, length:] = np.nan


# Any way to cut a prompt


@pytest.mark.parametrize("name", SOME)
def test_every_chunk_size_gives_the_reference(name: str) -> None:
    model = lowered(name)
    ids = prompt(model)
    want = reference_logits(model.config, model.tensors, ids)
    e = engine(model)
    forget(e)
    last: list[Array] = []
    for chunk in range(LENGTH + 1):
        e.truncate(0)
        last.append(e.feed(ids, chunk=chunk).copy())
        close(last[-1], want[-1])
    for a in last:
        close(a, last[1])
    one_by_one = np.array([e.step(token, 1).copy() for token in ids])
    close(one_by_one, want)
    close(np.concatenate([block.copy() for block in e.score(ids, 2)]), want)
    assert last[1].tobytes() == one_by_one[-1].tobytes()  # chunks of one token are steps


@pytest.mark.parametrize("name", ZOO)
def test_batched_rows_give_the_reference(name: str) -> None:
    """Four sequences at different positions, in batches of 4, 3, 2 and 1 rows."""
    model = lowered(name, "bf16" if len(name) % 3 == 0 else "f32")
    e = engine(model, poison=True)
    ids = [prompt(model, 12, seed) for seed in range(4)]
    want = [reference_logits(model.config, model.tensors, i) for i in ids]
    for slot in range(4):
        e.feed(ids[slot][: 3 + slot], slot)
    for n in (4, 3, 2, 1, 4):
        forget(e)
        slots = list(range(4))[::-1][:n]
        rows = e.step_many([(ids[s][e.lengths[s]], s) for s in slots])
        for s, row in zip(slots, rows, strict=True):
            close(row, want[s][e.lengths[s] - 1])


@pytest.mark.parametrize("storage", ["f16", "int8"])
def test_tiled_weights_and_a_poisoned_arena_change_nothing_of_note(storage: Storage) -> None:
    model = lowered("everything", storage, "f16")
    ids = prompt(model)
    rows = [np.concatenate([b.copy() for b in engine(model, tiled=t, poison=t).score(ids)]) for t in (False, True)]
    close(rows[1], rows[0])
    want = reference_logits(model.config, model.tensors, ids)
    assert np.abs(rows[0] - want).max() <= 1e-3 * np.abs(want).max()  # the cache is f16


# Bit for bit


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("function", ["decode_2", "decode_4"])
def test_a_row_does_not_depend_on_its_company(name: str, function: str) -> None:
    """Other tokens, other positions, other slots, fewer rows, another place in the step."""
    model = lowered(name)
    rng = np.random.default_rng(1)
    n = int(function[-1])
    e = engine(model)
    for slot in range(4):
        e.feed(prompt(model, 30, slot), slot)
    e.truncate(17, 2)
    seen: set[bytes] = set()
    for _ in range(12):
        company = [Row(int(rng.integers(model.config.vocab)), int(rng.integers(0, 48)), s) for s in (0, 1, 3)]
        company = [company[i] for i in rng.permutation(3)[: rng.integers(0, n)]]
        for cache in numpy_device(e).states.values():  # garbage of all sizes in the other slots
            cache[[0, 1, 3]] = rng.standard_normal(cache[[0, 1, 3]].shape) * 10.0 ** rng.integers(-3, 4)
            cache[2, :, 17:] = np.nan
        at = int(rng.integers(len(company) + 1))
        rows = [*company[:at], Row(5, 17, 2), *company[at:]]
        seen.add(e.device.rows(function, rows)[at].tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize("name", SOME)
def test_a_chunk_does_not_depend_on_how_many_rows_are_live(name: str) -> None:
    model = lowered(name)
    ids = prompt(model, 44)
    e = engine(model)
    for start in (0, 3, 15, 40):  # at 40 a chunk of 13 would end behind the context
        e.truncate(0)
        e.feed(ids[:start] or [1])
        e.truncate(start)
        first: Array | None = None
        for live in range(min(13, 44 - start), 0, -1):
            forget(e)
            rows = e.device.block("score_13", ids[start : start + live], start, 0)[:live].copy()
            first = rows if first is None else first
            assert rows.tobytes() == first[:live].tobytes()
        for function in ("prefill_8", "prefill_32"):
            forget(e)
            alone = e.device.block(function, ids[start : start + 3], start, 0).tobytes()
            forget(e)
            e.device.block(function, ids[start : start + 4], start, 0)
            keys = next(iter(numpy_device(e).states.values()))[0, :, start : start + 3].tobytes()
            assert e.device.block(function, ids[start : start + 3], start, 0).tobytes() == alone
            assert next(iter(numpy_device(e).states.values()))[0, :, start : start + 3].tobytes() == keys


@pytest.mark.parametrize("name", SOME)
def test_old_memory_does_not_matter(name: str) -> None:
    """A poisoned arena and caches of NaN, against a fresh device; and a slot used before, against a new one."""
    model = lowered(name)
    ids = prompt(model)

    def story(e: Engine, slot: int) -> bytes:
        out = [e.feed(ids[:11], slot).tobytes(), e.step(ids[11], slot).tobytes()]
        out += [row.tobytes() for row in e.step_many([(ids[12], slot)])]
        out += [block.tobytes() for block in e.score(ids[13:30], slot)]
        return b"".join(out)

    want = story(engine(model), 0)
    for poison in (False, True):
        e = engine(model, poison=poison)
        forget(e)
        assert story(e, 3) == want
        e.feed(prompt(model, 18, 9), 3)
        e.truncate(0, 3)
        assert story(e, 3) == want


def test_slots_are_independent() -> None:
    model = lowered("everything")
    alone = [engine(model).feed(prompt(model, 20 + s, s)).tobytes() for s in range(4)]
    e = engine(model)
    rng = np.random.default_rng(0)
    fed = [0] * 4
    ids = [prompt(model, 20 + s, s) for s in range(4)]
    want = [reference_logits(model.config, model.tensors, i)[-1] for i in ids]
    while any(fed[s] < len(ids[s]) for s in range(4)):
        slot = int(rng.choice([s for s in range(4) if fed[s] < len(ids[s])]))
        part = ids[slot][fed[slot] : fed[slot] + int(rng.integers(1, 9))]
        fed[slot] += len(part)
        got = e.feed(part, slot)
        if fed[slot] == len(ids[slot]):
            close(got, want[slot])
    for s in (2, 0, 3, 1):
        e.truncate(0, s)
        assert e.feed(ids[s], s).tobytes() == alone[s]


@pytest.mark.parametrize("length", [0, 1, 9, 25])
def test_truncate_and_feed_again_is_a_fresh_sequence(length: int) -> None:
    model = lowered("window_mixed")
    ids, other = prompt(model), prompt(model, 30, 7)
    want = engine(model)
    e = engine(model)
    if length:
        want.feed(ids[:length])
        e.feed(ids[:length])
    e.feed(other[length:] if length < 30 else other)
    e.truncate(length)
    assert e.feed(ids[length:]).tobytes() == want.feed(ids[length:]).tobytes()
    assert e.step(3).tobytes() == want.step(3).tobytes()


def digest() -> str:
    """A hash of many logits of small models."""
    out = hashlib.sha256()
    for name in SOME:
        model = lowered(name)
        e = engine(model)
        for block in e.score(prompt(model), 0):
            out.update(block.tobytes())
        out.update(e.feed(prompt(model), 1).tobytes() + e.feed(prompt(model, 9), 2).tobytes())
        for row in e.step_many([(1, 0), (2, 1), (3, 2)]):
            out.update(row.tobytes())
    return out.hexdigest()


def bare_digest() -> str:
    """A hash of bare products of many shapes, as the BLAS under NumPy rounds them."""
    out, random = hashlib.sha256(), np.random.default_rng(0)
    for rows in (1, 2, 8, 9, 32, 128):
        for k, n in ((24, 48), (64, 128), (64, 512), (172, 64), (512, 512)):
            x, w = (random.standard_normal(shape, np.float32) for shape in ((rows, k), (n, k)))
            out.update((x @ w.T).tobytes() + (x[:1] @ w.T).tobytes())
    return out.hexdigest()


def of_one_and_two_threads(name: str) -> list[str]:
    """What a function of this file gives with one and with two threads of the BLAS."""
    command = [sys.executable, "-c", f"from tests.test_engine import {name}; print({name}())"]
    root = Path(__file__).resolve().parents[1]
    running = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, env={**os.environ, "OPENBLAS_NUM_THREADS": n})
        for n in ("1", "2")
    ]
    return [p.communicate(timeout=60)[0].decode().strip() for p in running]


def test_threads_do_not_matter() -> None:
    one, two = of_one_and_two_threads("bare_digest")
    assert len(one) == 64
    if one != two:  # seen with OpenBLAS 0.3.31 on AMD Zen 5
        pytest.skip("NumPy's own products round differently with one and with two threads on this machine")
    found = of_one_and_two_threads("digest")
    assert found[0] == found[1]
    assert len(found[0]) == 64
