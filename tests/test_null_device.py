"""The null device finds nothing wrong with any compiled model, and finds every fault that is planted in one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from graphllm.errors import PlanError, VerifyError
from graphllm.ir.core import Function, Module, Operation
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.ir.verifier import verify
from graphllm.runtime.device import Row
from graphllm.runtime.engine import Engine
from graphllm.runtime.null_device import NullDevice
from tests.lowered_models import Storage, lowered
from tests.model_zoo import ZOO

FUNCTIONS = ("decode", "decode_4", "prefill_8", "score_13")


def steps(module: Module, function: str) -> None:
    """A few steps of one function on a null device."""
    device = NullDevice(module)
    if function == "decode":
        for position in range(3):
            assert not device.row(1, position, 2).any()
    elif function == "decode_4":
        device.rows(function, [Row(1, 0, 2), Row(3, 0, 0)])
        device.rows(function, [Row(1, 1, 0), Row(3, 0, 1), Row(4, 1, 2)])
    else:
        device.block(function, [5] * 7, 0, 1)
        device.block(function, [6], 7, 1)


def only(name: str, function: str, storage: Storage = "f32") -> Module:
    module = lowered(name, storage).module
    return replace(module, functions={function: module.functions[function]})


def refused(module: Module, function: str, pattern: str) -> None:
    with pytest.raises(PlanError, match=pattern) as error:
        steps(module, function)
    assert str(error.value).startswith(f"func @{function}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ZOO)
def test_every_model_is_clean(name: str) -> None:
    storage: Storage = "int8" if len(name) % 2 else "f32"
    module = lowered(name, storage).module
    engine = Engine(NullDevice(module), module)
    assert sum(len(block) for block in engine.score(list(range(40)), 0)) == 40
    for chunk in (0, 1, 5, 8, 30):
        engine.truncate(0, 1)
        engine.feed(list(range(31)), 1, chunk)
    engine.truncate(3, 1)
    engine.feed([1] * (engine.context - 3), 1)
    for slot in (2, 3):
        engine.feed([1] * (slot + 3), slot)
    engine.truncate(20, 0)
    engine.truncate(20, 1)
    for n in (1, 2, 3, 4):
        assert len(engine.step_many([(5, slot) for slot in range(n)])) == n
    assert not engine.step(1, 2).any()


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (PlanError, VerifyError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "function"), [("narrow_heads", "decode"), ("everything", "prefill_8")])
def test_a_moved_value_is_noticed(name: str, function: str) -> None:
    """Any place changed to any other: the null device and the verifier, which share no rule, say the same."""
    text = print_module(only(name, function, "int8"))
    places = list(re.finditer(r"arena\+(\d+)", text))
    offsets = sorted({int(m[1]) for m in places})
    rng = np.random.default_rng(5)
    caught = missed = 0
    for _ in range(120):
        place = places[rng.integers(len(places))]
        offset = int(rng.choice(offsets))
        module = parse_module(f"{text[: place.start()]}arena+{offset}{text[place.end() :]}")
        fault = error_of(lambda module=module: steps(module, function))
        broken = error_of(lambda module=module: verify(module))
        assert broken or not fault, fault
        caught += bool(fault)
        missed += bool(broken) and not fault  # laid over that part of a stacked result which is read no more
    assert caught > 60
    assert missed <= 3


@pytest.mark.parametrize("function", FUNCTIONS)
def test_swapped_operations_are_noticed(function: str) -> None:
    module = only("window_some", function)
    ops = module.functions[function].ops
    swapped = 0
    for i in range(len(ops) - 1):
        if {id(v) for v in ops[i].results} & {id(v) for v in ops[i + 1].operands}:
            order = (*ops[:i], ops[i + 1], ops[i], *ops[i + 2 :])
            refused(
                edited(module, lambda f, order=order: replace(f, ops=order)), function, "which nothing has computed"
            )
            swapped += 1
    assert swapped > 10


def edited(module: Module, change: Callable[[Function], Function]) -> Module:
    return replace(module, functions={name: change(f) for name, f in module.functions.items()})


def in_bodies(module: Module, change: Callable[[Operation], Operation]) -> Module:
    """Every table operation changed."""

    def kernel(op: Operation) -> Operation:
        if op.body is None:
            return change(op)
        return replace(op, body=replace(op.body, ops=tuple(map(change, op.body.ops))))

    return edited(module, lambda f: replace(f, ops=tuple(map(kernel, f.ops))))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_other_faults_are_noticed(function: str) -> None:
    module = only("plain", function)
    arena = module.functions[function].arena
    assert arena is not None
    smaller = edited(module, lambda f: replace(f, arena=arena - 64))
    refused(smaller, function, rf"bytes \d+ to \d+; expected inside the arena of {arena - 64}")
    refused(edited(module, lambda f: replace(f, arena=None)), function, "was not planned")

    def old_cache(op: Operation) -> Operation:
        if op.name != "attention":
            return op
        return replace(op, operands=(op.operands[0], *list(module.states.values())[:2], *op.operands[3:]))

    refused(in_bodies(module, old_cache), function, "attention giving %l0.att: reads @kv.0.k, which %l0.keys has")
    no_updates = edited(module, lambda f: replace(f, updates=f.updates[1:]))
    refused(no_updates, function, "%l0.keys is written and not handed back")

    eps = in_bodies(module, lambda op: replace(op, attrs={"eps": -1.0}) if op.name == "rmsnorm" else op)
    refused(eps, function, "rmsnorm giving %l0.h: rmsnorm: eps; expected a positive number")

    def retyped(op: Operation) -> Operation:
        if op.name != "silu":
            return op
        value = op.result
        return replace(op, results=(replace(value, type=replace(value.type, dtype="f16")),))

    refused(in_bodies(module, retyped), function, "silu giving %l0.gate.silu: its results; expected f32.* got f16")

    def without_place(op: Operation) -> Operation:
        return replace(op, results=tuple(replace(v, arena=None) for v in op.results)) if op.name == "embed" else op

    def nowhere(f: Function) -> Function:
        return replace(f, ops=tuple(without_place(op) if op.body is None else op for op in f.ops))

    text = re.sub(r"(%x = embed [^\n]*) in arena\+\d+", r"\1", print_module(module))
    refused(edited(parse_module(text), nowhere), function, "embed giving %x: %x has no place in the arena")


def test_caches_are_read_where_they_were_written() -> None:
    for kind in ("plain", "window_all"):
        device = NullDevice(lowered(kind).module)
        device.block("prefill_8", [1] * 6, 0, 1)
        device.row(1, 6, 1)
        with pytest.raises(PlanError, match=r"attention giving %l0\.att: reads position 7 of slot 1 of %l0\.keys"):
            device.row(1, 8, 1)
        with pytest.raises(PlanError, match="reads position 0 of slot 2"):
            device.row(1, 3, 2)
        device = NullDevice(lowered(kind).module)
        device.block("score_13", [1] * 13, 0, 3)
        device.row(1, 4, 3)  # back to 4: what lay behind is forgotten
        with pytest.raises(PlanError, match="reads position 5 of slot 3"):
            device.block("prefill_8", [1, 2], 6, 3)
        with pytest.raises(PlanError, match=r"kv_write giving %l0\.keys: position 48 of slot 0; the cache is"):
            device.row(1, 48, 0)
        with pytest.raises(PlanError, match="position 0 of slot 4"):
            device.rows("decode_2", [Row(1, 0, 4)])


def test_rows_keep_their_promise() -> None:
    device = NullDevice(lowered("plain").module)
    for call, message in (
        (lambda: device.rows("prefill_8", [Row(1, 0, 0), Row(1, 0, 1)]), "@prefill_8: called with independent rows"),
        (lambda: device.block("decode_4", [1, 2], 0, 0), "@decode_4: called with consecutive rows"),
        (lambda: device.rows("decode_4", [Row(1, 0, 0), Row(1, 1, 0)]), "@decode_4: called with two rows of one slot"),
        (lambda: device.block("prefill_8", [1] * 9, 0, 0), "called with 9 rows; expected 1 to 8"),
        (lambda: device.block("prefill_8", [], 0, 0), "called with 0 rows"),
        (lambda: device.row(1, -1, 0), "expected a position and a slot from 0 on"),
        (lambda: device.rows("decode_8", [Row(1, 0, 0)]), "@decode_8: not in this module; it has decode, decode_2"),
        (lambda: device.row(67, 0, 0), "embed giving %x: %ids asks for row 67 of 67"),
    ):
        with pytest.raises(PlanError, match=message):
            call()
    assert device.memory.arena > 0
    assert device.memory.states == 4 * 4 * 2 * 48 * 8 * 4  # 2 layers x k and v


REGISTERS = """\
func @decode(%ids: i32[1], %pos: i32[1], %slot: i32[1], %x: f32[1,16]) arena 192 {{
  kernel "silu" (%x) -> %a {{
    %a = silu %x : f32[1,16] in arena+0
  }}
  kernel "mul" (%a) -> %d{kernel_scratch} {{
    %b = silu %a : f32[1,16]{b}
    %c = silu %b : f32[1,16] in arena+{c}
    %d = {last} : f32[1,16] in arena+{d}{scratch}
  }}
  return %d
}}
"""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, ""),
        ({"d": 64}, ""),  # over %c, which nothing reads later, in place
        ({"scratch": " scratch arena+128:64", "d": 64}, ""),
        ({"kernel_scratch": " scratch arena+128:64", "d": 64}, ""),
        ({"c": 0}, "writes %c over %a, which it reads"),  # %b is in registers: %a is read for it again and again
        ({"d": 0}, "writes %d over %a, which it reads"),
        ({"d": 0, "last": "silu %c"}, "reads %a, of whose 64 bytes 64 were overwritten by %d"),  # no order in registers
        ({"d": 0, "last": "silu %c", "b": " in arena+128"}, ""),
        ({"d": 64, "last": "add %c, %c"}, ""),
        ({"d": 64, "last": "silu %c"}, "writes %d over %c, which it reads"),  # not an operation that may
        ({"c": 0, "b": " in arena+128", "d": 64}, ""),
        ({"c": 128, "b": " in arena+128", "d": 64}, "silu giving %c: writes %c over %b, which it reads"),
        ({"d": 64, "scratch": " scratch arena+64:4"}, "%d and scratch of %d overlap"),
        ({"scratch": " scratch arena+64:4"}, "writes scratch of %d over %c, which it reads"),
        ({"scratch": " scratch arena+0:4"}, "writes scratch of %d over %a, which it reads"),
        ({"scratch": " scratch arena+128:68", "d": 64}, "its scratch: bytes 128 to 196; expected inside"),
        ({"kernel_scratch": " scratch arena+64:64", "d": 64}, "reads %d, of whose 64 bytes 64 were overwritten by scr"),
    ],
)
def test_values_in_registers_and_scratch(change: dict[str, str], fault: str) -> None:
    fields = {"b": "", "c": 64, "last": "mul %c, %b", "d": 128, "scratch": "", "kernel_scratch": ""} | change
    module = parse_module(REGISTERS.format(**fields))
    if fault:
        with pytest.raises(PlanError, match=re.escape(fault)):
            NullDevice(module).row(0, 0, 0)
    else:
        NullDevice(module).row(0, 0, 0)
