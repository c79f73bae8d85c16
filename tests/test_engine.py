"""Sequences on the NumPy device: however a prompt is cut and whatever lies around it, a row's logits are its own.

``close`` holds logits to the oracle and to each other; everything called the same is the same bit for bit.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import PlanError, RunError
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.runtime.device import Row
from graphllm.runtime.engine import CALL_ROWS, Engine, cover
from graphllm.runtime.interface import check_interface
from graphllm.runtime.null_device import NullDevice
from graphllm.runtime.numpy_device import NumpyDevice
from tests.lowered_models import Lowered, Storage, device, engine, lowered
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


# Ends and errors


def test_a_full_context() -> None:
    model = lowered("plain")
    e = engine(model)
    ids = prompt(model, 48)
    want = reference_logits(model.config, model.tensors, ids)
    close(e.feed(ids), want[-1])
    for refused in (lambda: e.step(1), lambda: e.feed([1]), lambda: e.step_many([(1, 0)]), lambda: list(e.score([1]))):
        with pytest.raises(RunError, match=r"^context: 1 tokens after 48 held do not fit in 48 positions; "):
            refused()
    assert e.lengths == [48, 0, 0, 0]
    e.truncate(47)
    close(e.step(ids[-1]), want[-1])


def test_a_context_of_one_position() -> None:
    model = lowered("plain", slots=1, context=1)
    e = engine(model, poison=True)
    want = reference_logits(model.config, model.tensors, [5])
    close(e.feed([5]), want[0])
    e.truncate(0)
    close(np.concatenate(list(e.score([5]))), want)
    with pytest.raises(RunError, match=r"^context: 2 tokens do not fit in 1 positions"):
        engine(model).feed([1, 2])


def test_errors_leave_the_sequence_as_it_was() -> None:
    model = lowered("plain")
    e = engine(model)
    e.feed([1, 2, 3], 1)
    bad: Any = 1.5
    for call, message in (
        (lambda: e.feed([1] * 46, 1), r"^context: 46 tokens after 3 held do not fit in 48 positions"),
        (lambda: e.feed([1] * 49), r"^context: 49 tokens do not fit in 48 positions; shorten the prompt or"),
        (lambda: e.feed([]), r"^prompt: no tokens; expected at least one"),
        (lambda: e.feed([1, 67]), r"^token 67: not in the vocabulary; expected 0 to 66"),
        (lambda: e.feed([1, -1]), r"^token -1: not in the vocabulary"),
        (lambda: e.feed([1, bad]), r"^token 1.5: not in the vocabulary"),
        (lambda: e.step(67, 1), r"^token 67: not in the vocabulary"),
        (lambda: e.feed([1], 4), r"^slot 4: no such slot; expected 0 to 3"),
        (lambda: e.feed([1], -1), r"^slot -1: no such slot"),
        (lambda: e.step(1, 4), r"^slot 4: no such slot"),
        (lambda: e.step(1, -1), r"^slot -1: no such slot"),
        (lambda: e.truncate(0, 4), r"^slot 4: no such slot"),
        (lambda: e.step_many([(1, 0), (1, 4)]), r"^slot 4: no such slot"),
        (lambda: e.step_many([(1, 0), (2, 0)]), r"^batch: two tokens for one slot in one step"),
        (lambda: list(e.score([1, 2, 300])), r"^token 300: not in the vocabulary"),
    ):
        with pytest.raises(RunError, match=message):
            call()
    assert e.lengths == [0, 3, 0, 0]
    fresh = engine(model)
    fresh.feed([1, 2, 3])
    assert e.step(4, 1).tobytes() == fresh.step(4).tobytes()


def test_a_module_that_is_no_language_model_is_refused() -> None:
    model = lowered("plain")
    text = print_module(model.module)
    whole = text.index("func @decode(")
    second = re.compile(r"^.*(?:kv\.1\.|l1\.keys =|l1\.values =).*$", re.MULTILINE)
    shorter = second.sub(lambda line: line[0].replace("[4,2,48,8]", "[4,2,47,8]"), text)
    for changed, message in (
        (text[:whole], "^here: functions; expected decode, a score_N and others, got none"),
        (shorter, r"^here: state @kv\.1\.k: expected 4 slots of 48 positions as the others have, got f32\[4,2,47,8\]"),
        (text[: text.index("func @score_13")], "^here: functions; expected decode, a score_N and others, got decode"),
        (text.replace("@score_13", "@score_12"), r"^here: func @score_12: inputs; expected %ids: i32\[12\]"),
        (text.replace("@prefill_8", "@prefill_x"), "^here: func @prefill_x: not a step that the runtime knows"),
        (text.replace("@prefill_8", "@score_8"), r"^here: func @score_8: inputs; .* got .*%rows: i32\[1\]"),
        (text.replace("%slot", "%place"), "^here: func @decode: inputs; .* got .*%place"),
        (
            text.replace(") consecutive arena", ") arena", 1),
            "^here: func @prefill_8: rows; expected consecutive ones, got independent",
        ),
        (text.replace("return %logits, ", "return ", 1), "^here: func @decode: results"),
        (text.replace("return %logits, ", "return %logits, %logits, ", 1), "^here: func @decode: results"),
        (text.replace("return %logits, ", "return %x, ", 1), r"^here: func @decode_2: results; expected f32\[2,32\]"),
    ):
        assert changed != text
        with pytest.raises(PlanError, match=message):
            check_interface(parse_module(changed), "here")


def test_memory_is_what_the_types_say() -> None:
    model = lowered("plain", "bf16")
    d = device(model)
    stored = sum(a.nbytes for a in model.weights.values())
    before = d.memory
    assert before.mapped == before.weights == stored
    assert before.states == 4 * 48 * 2 * 8 * 4 * 2 * model.config.layers
    for function in model.module.functions:
        d.prepare(function)
    matrices = sum(a.size for a in model.weights.values() if a.ndim == 2 and a.dtype != np.float32)
    embedding = model.weights["tok_emb"].size  # rows are widened as they are gathered
    assert d.memory.weights - stored == 4 * (matrices - embedding)


# Which calls take a prompt


def brute_force(n: int, sizes: tuple[int, ...]) -> int:
    """The least cost of any multiset of sizes that holds n tokens."""
    counts = product(*(range(-(-n // s) + 1) for s in sizes))
    return min(
        sum(c * (CALL_ROWS + s) for c, s in zip(count, sizes, strict=True))
        for count in counts
        if sum(c * s for c, s in zip(count, sizes, strict=True)) >= n
    )


@pytest.mark.parametrize("sizes", [(), (8,), (8, 10), (3, 7), (2, 5, 9), (4, 16), (7, 11, 13)])
def test_cover_is_the_cheapest(sizes: tuple[int, ...]) -> None:
    for n in range(1, 31 if len(sizes) < 3 else 20):
        chosen = cover(n, sizes)
        assert list(chosen) == sorted(chosen, reverse=True)
        assert set(chosen) <= {1, *sizes}
        assert sum(chosen) >= n > sum(chosen[:-1])
        assert sum(CALL_ROWS + s for s in chosen) == brute_force(n, (1, *sizes)), (n, chosen)


def test_cover_of_long_prompts() -> None:
    """Whole chunks taken off first cost nothing: as cheap as the whole table says."""
    for sizes in ((8, 32, 128, 512), (8, 32, 100), (6, 10, 15)):
        best = [0]
        for n in range(1, 3000):
            best.append(min(best[max(0, n - s)] + CALL_ROWS + s for s in (1, *sizes)))
        for n in (511, 512, 513, 600, 1023, 1025, 1999, 2047, 2389, 2390, 2391, 2999):
            assert sum(CALL_ROWS + s for s in cover(n, sizes)) == best[n]
    assert len(cover(10_000_000, (8, 32, 128, 512))) == 19532


class Recorder(NullDevice):
    """Notes the size of every call and how many tokens it brought."""

    def __init__(self, model: Lowered) -> None:
        super().__init__(model.module)
        self.calls: list[tuple[int, int]] = []
        self.logits = np.zeros((1, model.config.vocab), np.float32)

    def row(self, token: int, position: int, slot: int) -> Any:
        self.calls.append((1, 1))
        return self.logits[0]

    def block(self, function: str, tokens: Any, start: int, slot: int) -> Any:
        self.calls.append((int(function.rpartition("_")[2]), len(tokens)))
        return self.logits


def test_calls_hold_the_prompt_whatever_the_chunk() -> None:
    model = lowered("plain", slots=1, context=100)  # chunks of 8 and 32: prompts and chunks beyond the largest
    recorder = Recorder(model)
    e = Engine(recorder, model.module)
    for n in (*range(1, 101, 7), 31, 32, 33, 63, 67, 97, 100):
        for chunk in range(102):
            e.truncate(0)
            recorder.calls.clear()
            e.feed([1] * n, chunk=chunk)
            assert e.lengths == [n]
            assert sum(live for _, live in recorder.calls) == n
            assert all(1 <= live <= min(size, chunk or n) for size, live in recorder.calls)
            if 0 < chunk < n and chunk <= 32:  # one call a piece
                assert len(recorder.calls) == -(-n // chunk)
