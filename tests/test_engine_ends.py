"""Where a sequence ends, what is refused and leaves it as it was, and what a module must be."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from graphllm.errors import PlanError, RunError
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.runtime.interface import check_interface
from tests.lowered_models import device, engine, lowered
from tests.reference_forward import reference_logits
from tests.test_engine import close, prompt


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
