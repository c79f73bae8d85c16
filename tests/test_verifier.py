"""Every rule of the language has a module that breaks it, and the verifier says which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from graphllm.errors import VerifyError
from graphllm.ir import Function, Module, Operation, State, TensorType, Value, Weight, kernel, parse_module, verify
from graphllm.ir.core import KERNEL, Region

X = TensorType("f32", (1, 16))


def x(name: str = "x", type: TensorType = X) -> Value:
    return Value(name, type)


def silu(source: Value, name: str, arena: int | None = None, type: TensorType = X) -> Operation:
    return Operation("silu", (source,), {}, (Value(name, type, arena),))


def func(*ops: Operation, inputs: tuple[Value, ...] = (), results: tuple[Value, ...] = ()) -> Module:
    return Module(functions={"f": Function("f", inputs, ops, results)})


def refused(module: Module, words: str) -> None:
    with pytest.raises(VerifyError) as error:
        verify(module)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


# Names and declarations


def test_a_valid_module_passes() -> None:
    a = x()
    op = silu(a, "y")
    verify(func(op, inputs=(a,), results=(op.result,)))


@pytest.mark.parametrize("name", ["", "a b", "é", "a\n", "-a", ".a", "a}"])
def test_names_can_be_printed(name: str) -> None:
    refused(Module(weights={name: Weight(name, X)}), "is not a name")
    refused(Module(states={name: State(name, X)}), "is not a name")
    refused(func(inputs=(x(name),)), "is not a name")
    a = x()
    refused(func(silu(a, name), inputs=(a,)), "is not a name")
    refused(Module(functions={name: Function(name, (), (), ())}), "expected its key")


def test_keys_are_names() -> None:
    refused(Module(weights={"a": Weight("b", X)}), "weights: 'a' is called 'b'; expected its key")
    refused(Module(states={"a": State("b", X)}), "states: 'a' is called 'b'; expected its key")
    refused(Module(functions={"a": Function("b", (), (), ())}), "functions: 'a' is called 'b'; expected its key")
    refused(Module(weights={"a": Weight("a", X)}, states={"a": State("a", X)}), "a weight has that name")


@pytest.mark.parametrize("type", [TensorType("f32", (0,)), TensorType("f32", (2, -1)), TensorType("f64", (2,))])  # type: ignore[arg-type]
def test_declared_types_are_types(type: TensorType) -> None:
    refused(Module(weights={"w": Weight("w", type)}), "expected a known dtype and positive sizes")
    refused(Module(states={"w": State("w", type)}), "expected a known dtype and positive sizes")
    refused(func(inputs=(x("w", type),)), "expected a known dtype and positive sizes")


def test_names_are_unique() -> None:
    a = x()
    refused(func(inputs=(a, x())), "%x is defined twice")
    refused(func(silu(a, "x"), inputs=(a,)), "%x is defined twice")
    body = kernel("k", [inner := silu(a, "h"), y := silu(inner.result, "y")], [y.result])
    refused(func(body, silu(a, "h"), inputs=(a,)), "%h is defined twice")


# Weights


def test_definitions_read_earlier_weights_of_the_module() -> None:
    w = Weight("w", X)
    made = Weight("m", X, definition=Operation("silu", (w,), {}, (Value("m", X),)))
    verify(Module(weights={"w": w, "m": made}))
    refused(
        Module(weights={"m": made, "w": w}), "weight @m: its definition reads @w; expected weights that stand before"
    )
    refused(Module(weights={"m": made}), "its definition reads @w")
    refused(Module(weights={"w": Weight("w", X), "m": made}), "its definition reads @w")
    state = State("s", X)
    reads_state = replace(made, definition=Operation("silu", (state,), {}, (Value("m", X),)))
    refused(Module(weights={"m": reads_state}, states={"s": state}), "its definition reads @s")


def test_definitions_give_the_weight() -> None:
    w, other = Weight("w", X), TensorType("f32", (2, 8))
    for type_, result in [(other, Value("m", other)), (X, Value("n", X)), (X, Value("m", other))]:
        made = Weight("m", type_, definition=Operation("silu", (w,), {}, (result,)))
        refused(Module(weights={"w": w, "m": made}), "expected its own type and name")
    two = Operation("split", (w,), {"sizes": (8, 8)}, (Value("m", X), Value("n", X)))
    refused(Module(weights={"w": w, "m": Weight("m", X, definition=two)}), "expected its own type and name")
    bad = Operation("reshape", (w,), {"shape": (3,)}, (Value("m", X),))
    refused(Module(weights={"w": w, "m": Weight("m", X, definition=bad)}), "weight @m: reshape: shape; expected 16")


# Operations


def test_types_follow_from_operands() -> None:
    a = x()
    refused(func(silu(a, "y", type=TensorType("f32", (16,))), inputs=(a,)), "silu: expected f32[1,16], got f32[16]")
    refused(func(Operation("silu", (a,), {}, ()), inputs=(a,)), "silu: expected f32[1,16], got ")
    refused(func(Operation("mul", (a,), {}, (x("y"),)), inputs=(a,)), "mul: wrong number of operands")
    refused(func(Operation("fuzz", (a,), {}, (x("y"),)), inputs=(a,)), "unknown operation fuzz")
    refused(func(Operation(KERNEL, (a,), {}, (x("y"),)), inputs=(a,)), "unknown operation kernel")


def test_attributes_are_complete_and_in_order() -> None:
    a = x()
    freqs, pos = Value("w", TensorType("f32", (3,))), Value("p", TensorType("i32", (1,)))
    turn = Value("t", TensorType("f32", (1, 3, 2)))
    refused(
        func(Operation("rotation", (pos, freqs), {}, (turn,)), inputs=(freqs, pos)),
        "rotation: attributes; expected all, in the order of the op table",
    )
    refused(func(Operation("silu", (a,), {"eps": 1.0}, (x("y"),)), inputs=(a,)), "silu: unknown attribute eps")
    reshape = Operation("reshape", (a,), {"shape": [16]}, (x("y", TensorType("f32", (16,))),))  # type: ignore[dict-item]
    refused(func(reshape, inputs=(a,)), "reshape: attributes")


def test_definitions_come_before_uses() -> None:
    a = x()
    y = silu(a, "y")
    z = silu(y.result, "z")
    refused(func(z, y, inputs=(a,)), "silu: %y is used before it is defined")
    refused(func(y, inputs=(a,), results=(z.result,)), "return: %z is used before it is defined")
    refused(func(silu(x(), "y"), inputs=(a,)), "silu: %x is used before")  # another value of the same name
    refused(func(silu(Weight("w", X), "y")), "silu: @w is not a weight of this module")
    refused(func(silu(State("s", X), "y")), "silu: @s is not a state of this module")


# Kernels


def test_what_a_kernel_keeps_inside_stays_inside() -> None:
    a = x()
    y = silu(a, "y")
    z = silu(y.result, "z")
    k = kernel("k", [y, z], [z.result])
    verify(func(k, inputs=(a,), results=(z.result,)))
    refused(func(k, silu(y.result, "u"), inputs=(a,)), "silu: %y is used before it is defined, or outside its kernel")
    refused(func(k, inputs=(a,), results=(y.result,)), "return: %y is used")
    refused(func(kernel("j", [k], [z.result]), inputs=(a,)), "kernels do not nest")


def test_a_kernel_says_what_it_reads_and_gives() -> None:
    a, b = x("a"), x("b")
    y = silu(a, "y")
    body = Region((y,), (y.result,))
    k = Operation(KERNEL, (a,), {}, (y.result,), body, "k")
    verify(func(k, inputs=(a, b)))
    refused(func(replace(k, operands=()), inputs=(a, b)), "its operands are not what its body reads")
    refused(func(replace(k, operands=(a, b)), inputs=(a, b)), "its operands are not what its body reads")
    refused(func(replace(k, results=(x("y"),)), inputs=(a, b)), "its results are not its body's")
    refused(func(replace(k, results=(), body=replace(body, results=())), inputs=(a,)), "its results are not its body's")
    refused(func(replace(k, results=(a,), body=replace(body, results=(a,))), inputs=(a,)), "its results are not")
    twice = (y.result, y.result)
    refused(func(replace(k, results=twice, body=replace(body, results=twice)), inputs=(a,)), "each result once")
    refused(func(replace(k, attrs={"a": 1}), inputs=(a,)), "expected no attributes")


# States. What the text can say, it says.

STATES = """
state @s : f32[1,1,4,2]
state @t : f32[1,1,4,2]
func @f(%x: f32[1,1,2], %p: i32[1], %q: f32[1,1,2]) {
"""
WRITE = "%a = kv_write @s, %x, %p, %p : f32[1,1,4,2]\n"
BROKEN_STATES = {
    "stale read": (
        WRITE + "%o = attention %q, @s, @s, %p, %p {scale=1.0} : f32[1,1,2]\nreturn %o, @s = %a }",
        "attention: @s was overwritten by kv_write giving %a; read that instead",
    ),
    "stale read of a later value": (
        WRITE + "%b = kv_write %a, %x, %p, %p : f32[1,1,4,2]\n"
        "%o = attention %q, %a, %b, %p, %p {scale=1.0} : f32[1,1,2]\nreturn %o, @s = %b }",
        "attention: %a was overwritten by kv_write giving %b",
    ),
    "stale window": (
        "%w = reshape @s {shape=[8]} : f32[8]\n" + WRITE + "%o = silu %w : f32[8]\nreturn %o, @s = %a }",
        "silu: %w was overwritten by kv_write giving %a",
    ),
    "stale window on a window": (
        "%v = reshape @s {shape=[8]} : f32[8]\n%w, %z = split %v {sizes=[4,4]} : f32[4], f32[4]\n"
        + WRITE
        + "%o = silu %z : f32[4]\nreturn %o, @s = %a }",
        "silu: %z was overwritten by kv_write giving %a",
    ),
    "stale window returned": (
        "%w = reshape @s {shape=[8]} : f32[8]\n" + WRITE + "return %w, @s = %a }",
        "return: %w was overwritten",
    ),
    "stale read in a kernel": (
        'kernel "k" (@s, %x, %p) -> %a, %o {\n' + WRITE + "%o = reshape @s {shape=[8]} : f32[8]\n}\nreturn @s = %a }",
        "reshape: @s was overwritten",
    ),
    "two writes of one value": (
        WRITE + "%b = kv_write @s, %x, %p, %p : f32[1,1,4,2]\nreturn @s = %b }",
        "kv_write: @s was overwritten by kv_write giving %a",
    ),
    "missing update": (WRITE + "return }", "return: @s was overwritten and is not handed back"),
    "update lost in a kernel": (
        'kernel "k" (@s, %x, %p) -> %o {\n' + WRITE + "%o = silu %x : f32[1,1,2]\n}\nreturn %o }",
        "return: @s was overwritten and is not handed back",
    ),
    "stale update": (
        WRITE + "%b = kv_write %a, %x, %p, %p : f32[1,1,4,2]\nreturn @s = %a }",
        "return @s: %a was overwritten",
    ),
    "update of another state": (WRITE + "return @t = %a }", "return: %a is not a later value of @t"),
    "update by a plain value": (
        "%b = silu @s : f32[1,1,4,2]\nreturn @s = %b }",
        "return: %b is not a later value of @s",
    ),
    "update handed back twice": (WRITE + "return @s = %a, @s = %a }", "return: @s is handed back twice"),
    "overwriting what is not a state": (
        "%b = silu @s : f32[1,1,4,2]\n%a = kv_write %b, %x, %p, %p : f32[1,1,4,2]\nreturn %a }",
        "kv_write: %b is not a state; only a state can be overwritten",
    ),
}


@pytest.mark.parametrize("case", BROKEN_STATES)
def test_states_are_used_linearly(case: str) -> None:
    text, words = BROKEN_STATES[case]
    refused(parse_module(STATES + text), words)


# Places in the arena


ARENA = "func @f(%x: f32[1,16], %n: f32[1,4]) arena 128 {\n"
BROKEN_ARENAS = {
    "overlap": (
        "%a = silu %x : f32[1,16] in arena+0\n%b = silu %x : f32[1,16] in arena+0\n"
        "%c = mul %a, %b : f32[1,16] in arena+64\nreturn %c }",
        "%a and %b are in use at once and overlap in the arena",
    ),
    "partial overlap": (
        "%a = concat %x, %x : f32[2,16] in arena+0\n%b = silu %x : f32[1,16] in arena+64\n"
        "%c = silu %a : f32[2,16] in arena+0\nreturn %b, %c }",
        "%a and %b are in use at once and overlap",
    ),
    "an operand taken over by an operation that cannot": (
        "%a = silu %x : f32[1,16] in arena+0\n%b = silu %a : f32[1,16] in arena+0\nreturn %b }",
        "%a and %b are in use at once and overlap",
    ),
    "an operand taken over that is read later": (
        "%a = silu %x : f32[1,16] in arena+0\n%b = add %a, %x : f32[1,16] in arena+0\nreturn %a, %b }",
        "%a and %b are in use at once and overlap",
    ),
    "an operand taken over while another looks at it": (
        "%a = silu %x : f32[1,16] in arena+0\n%w = reshape %a {shape=[16]} : f32[16]\n"
        "%b = rmsnorm %a, %w {eps=1.0} : f32[1,16] in arena+0\nreturn %b }",
        "%a and %b are in use at once and overlap",
    ),
    "a result overwritten before the end": (
        "%a = silu %x : f32[1,16] in arena+0\n%b = silu %x : f32[1,16] in arena+0\nreturn %a }",
        "%a and %b are in use at once and overlap",
    ),
    "a window that keeps its memory alive": (
        "%a = silu %x : f32[1,16] in arena+0\n%w = reshape %a {shape=[16]} : f32[16]\n"
        "%b = silu %x : f32[1,16] in arena+0\n%c = silu %w : f32[16] in arena+64\nreturn %c }",
        "%a and %b are in use at once and overlap",
    ),
    "no place": ("%a = silu %x : f32[1,16]\nreturn %a }", "%a has no place in the arena"),
    "no place for what a kernel hands out": (
        'kernel "k" (%x) -> %a {\n%a = silu %x : f32[1,16]\n}\nreturn %a }',
        "%a has no place in the arena",
    ),
    "a place outside": (
        "%a = silu %x : f32[1,16] in arena+128\nreturn %a }",
        "%a takes 64 bytes in arena+128; expected a multiple of 64 inside 128",
    ),
    "a place across the end": (
        "%a = concat %x, %x : f32[2,16] in arena+64\nreturn %a }",
        "%a takes 128 bytes in arena+64; expected a multiple of 64 inside 128",
    ),
    "a crooked place": ("%a = silu %x : f32[1,16] in arena+4\nreturn %a }", "arena+4; expected a multiple of 64"),
    "a window with a place": (
        "%a = reshape %x {shape=[16]} : f32[16] in arena+0\nreturn %a }",
        "%a has a place in the arena; a window on other memory has none",
    ),
    "scratch outside": (
        "%a = silu %x : f32[1,16] in arena+0 scratch arena+64:65\nreturn %a }",
        "scratch of %a takes 65 bytes in arena+64",
    ),
    "scratch over the result": (
        "%a = silu %x : f32[1,16] in arena+0 scratch arena+0:4\nreturn %a }",
        "in use at once and overlap",
    ),
    "scratch over an operand": (
        "%b = silu %x : f32[1,16] in arena+0\n%a = silu %b : f32[1,16] in arena+64 scratch arena+0:64\nreturn %a }",
        "%b and scratch of %a are in use at once and overlap",
    ),
    "negative scratch": (
        "%a = silu %x : f32[1,16] in arena+0 scratch arena+64:-1\nreturn %a }",
        "scratch of %a takes -1 bytes",
    ),
    "scratch of a kernel over what lives inside": (
        'kernel "k" (%x) -> %b scratch arena+0:64 {\n%a = silu %x : f32[1,16] in arena+0\n'
        "%b = silu %a : f32[1,16] in arena+64\n}\nreturn %b }",
        "in use at once and overlap",
    ),
    "registers: a result over an operand of its kernel": (
        '%a = silu %x : f32[1,16] in arena+0\nkernel "k" (%a) -> %c {\n%b = silu %a : f32[1,16]\n'
        "%c = silu %b : f32[1,16] in arena+0\n}\nreturn %c }",
        "%a and %c are in use at once and overlap",
    ),
}


@pytest.mark.parametrize("case", BROKEN_ARENAS)
def test_arena_places_are_sound(case: str) -> None:
    text, words = BROKEN_ARENAS[case]
    refused(parse_module(ARENA + text), words)


def test_sound_places_pass() -> None:
    for text in (
        "%a = silu %x : f32[1,16] in arena+0\n%b = add %a, %x : f32[1,16] in arena+0\nreturn %b }",
        "%a = silu %x : f32[1,16] in arena+0\n%b = silu %n : f32[1,4] in arena+64 scratch arena+64:0\nreturn %a, %b }",
        'kernel "k" (%x) -> %c {\n%a = silu %x : f32[1,16] in arena+0\n%b = silu %a : f32[1,16] in arena+64\n'
        "%c = silu %b : f32[1,16] in arena+0\n}\nreturn %c }",
    ):
        verify(parse_module(ARENA + text))


def test_places_need_an_arena() -> None:
    for text in (
        "%a = silu %x : f32[1,16] in arena+0\nreturn %a }",
        "%a = silu %x : f32[1,16] scratch arena+0:64\nreturn %a }",
        'kernel "k" (%x) -> %a scratch arena+0:64 {\n%a = silu %x : f32[1,16]\n}\nreturn %a }',
    ):
        refused(parse_module("func @f(%x: f32[1,16]) {\n" + text), "the function has no arena")
    refused(func(inputs=(Value("x", X, 0),)), "%x has a place in the arena; only operations' results have one")
