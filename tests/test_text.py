"""The text form: print and parse undo each other, errors point at their cause, and no text can do worse than fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from graphllm.errors import ParseError, VerifyError
from graphllm.ir import parse_module, print_module, verify
from tests.random_ir import random_module

GOLDENS = sorted((Path(__file__).parent / "golden" / "ir").glob("*.ir"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.stem)
def test_printing_what_was_parsed_gives_the_same_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    module = parse_module(text, path.name)
    verify(module)
    assert print_module(module) == text


def test_the_goldens_use_the_whole_grammar() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in GOLDENS)
    for construct in (
        " from ",
        "state ",
        "func ",
        "consecutive",
        "arena ",
        "in arena+",
        "scratch arena+",
        "kernel ",
        "=",
    ):
        assert construct in text


@pytest.mark.parametrize("block", range(3))
def test_parsing_what_was_printed_gives_the_same_module(block: int) -> None:
    for seed in range(100 * block, 100 * (block + 1)):
        module = random_module(seed, kernels=seed % 2 == 1)
        text = print_module(module)
        again = parse_module(text)
        verify(again)
        assert again == module, f"seed {seed}"
        assert print_module(again) == text
        for name, f in module.functions.items():
            g = again.functions[name]
            assert (f.rows, f.arena, len(f.ops)) == (g.rows, g.arena, len(g.ops))
            assert [op.attrs for op in f.walk()] == [op.attrs for op in g.walk()]
            assert [list(op.attrs) for op in f.walk()] == [list(op.attrs) for op in g.walk()]
            assert [op.template for op in f.ops] == [op.template for op in g.ops]
            assert [v.type for op in f.walk() for v in op.results] == [v.type for op in g.walk() for v in op.results]
        assert [w.source for w in module.weights.values()] == [w.source for w in again.weights.values()]


def test_spelling_is_free_and_printing_is_not() -> None:
    text = """// a comment
        weight@a:f32[ 2 , 3 ]from "x" weight @b : f32[2,3]= reshape @a{shape = [2, 3]} // another
        func @f ( %x : f32[1,3] ) { %y = linear %x , @b : f32[1,2]
           %n = rmsnorm %x, @g {eps=1} : f32[1,3] return %y }"""
    text = text.replace("func", "weight @g : f32[3] func")
    assert print_module(parse_module(text)) == (
        'weight @a : f32[2,3] from "x"\n'
        "weight @b : f32[2,3] = reshape @a {shape=[2,3]}\n"
        "weight @g : f32[3]\n\n"
        "func @f(%x: f32[1,3]) {\n"
        "  %y = linear %x, @b : f32[1,2]\n"
        "  %n = rmsnorm %x, @g {eps=1.0} : f32[1,3]\n"
        "  return %y\n"
        "}\n"
    )


def test_nothing_is_a_module() -> None:
    assert print_module(parse_module("")) == ""
    assert print_module(parse_module(" // only words\n")) == ""


HEAD = "weight @w : f32[2,3]\nstate @s : f32[1,1,4,2]\nfunc @f(%x: f32[1,3]) {\n"
BROKEN = {
    "wight @w : f32[2,3]": (1, 1, "expected weight, state or func, got wight"),
    "weight %w : f32[2,3]": (1, 8, "expected @name, got %w"),
    "weight @w f32[2,3]": (1, 11, "expected ':', got f32[2,3]"),
    "weight @w : f64[2,3]": (1, 13, "unknown dtype f64; expected one of f32 f16 bf16 i8 i32"),
    "weight @w : f32": (1, 13, "expected a type such as f32[1,64], got f32"),
    "weight @w : f32[2,0]": (1, 13, "expected positive sizes, got f32[2,0]"),
    "weight @w : f32[2,-3]": (1, 13, "expected positive sizes, got f32[2,-3]"),
    "weight @w : f32[2,,3]": (1, 13, "expected positive sizes, got f32[2,,3]"),
    f"weight @w : f32[{'9' * 19}]": (1, 13, f"expected positive sizes, got f32[{'9' * 19}]"),
    "weight @w : f32[2,3] from name": (1, 27, "expected a string, got name"),
    'weight @w : f32[2,3] from "\\x"': (1, 27, "not a valid string"),
    'weight @w : f32[2,3] from "x': (1, 27, "unexpected character '\"'"),
    "weight @w : f32[2,3]\nweight @w : f32[2,3]": (2, 8, "@w is defined twice"),
    "weight @w : f32[2,3]\nstate @w : f32[2,3]": (2, 7, "@w is defined twice"),
    "weight @w : f32[2,3] = concat @a, @b": (1, 31, "@a is not defined here"),
    "weight @w : f32[2,3]\nweight @v : f32[4,2] = concat @w, @w": (2, 24, "concat: expected f32[4,2], got f32[4,3]"),
    "state @s : f32[2,3]\nweight @v : f32[3,2] = reshape @s {shape=[3,2]}": (
        2,
        24,
        "the definition of @v reads @s; expected weights only",
    ),
    "weight @w : f32[2,3] ?": (1, 22, "unexpected character '?'"),
    HEAD + "  %y = linear %x, @w : f32[1,3]\n  return %y\n}": (
        4,
        8,
        "linear: result %y; expected f32[1,2], got f32[1,3]",
    ),
    HEAD + "  %y = linear %x, @v : f32[1,2]\n": (4, 19, "@v is not defined here"),
    HEAD + "  %y = linear %z, @w : f32[1,2]\n": (4, 15, "%z is not defined here"),
    HEAD + "  %y = linaer %x, @w : f32[1,2]\n": (4, 8, "unknown operation linaer; known ones are add, attention"),
    HEAD + "  %y = linear %x : f32[1,2]\n": (4, 8, "linear: wrong number of operands; expected 2, got 1"),
    HEAD + "  %y = linear @w, %x : f32[1,2]\n": (4, 8, "linear: result %y; expected f32[2,1], got f32[1,2]"),
    HEAD + "  %y = silu %x {eps=1} : f32[1,3]\n": (4, 8, "silu: unknown attribute eps; expected none"),
    HEAD + "  %y = reshape %x {shape=[3} : f32[3]\n": (4, 28, "expected ',', got }"),
    HEAD + "  %y = reshape %x {shape=[1.5]} : f32[3]\n": (4, 27, "expected an integer, got 1.5"),
    HEAD + "  %y = reshape %x {shape=[3], shape=[3]} : f32[3]\n": (4, 31, "attribute shape is given twice"),
    HEAD + "  %y = reshape %x {shape=three} : f32[3]\n": (4, 26, "expected an attribute's value, got three"),
    HEAD + "  %x = silu %x : f32[1,3]\n": (4, 3, "%x is defined twice"),
    HEAD + "  %a, %a = split %x {sizes=[1,2]} : f32[1,1], f32[1,2]\n": (4, 7, "%a is defined twice"),
    HEAD + "  %a = split %x {sizes=[1,2]} : f32[1,1]\n": (4, 8, "split: expected 2 results and types, got 1 and 1"),
    HEAD + "  silu %x : f32[1,3]\n": (4, 3, "expected an operation, a kernel or return, got silu"),
    HEAD + "  %y = silu %x : f32[1,3] in 64\n": (4, 30, "expected arena+offset, got 64"),
    HEAD + f"  %y = silu %x : f32[1,3] in arena+{'1' * 19}\n": (4, 30, "expected an offset of at most 18 digits"),
    HEAD + "  return %y\n}": (4, 10, "%y is not defined here"),
    HEAD + "  return %x = %x\n}": (4, 10, "expected a state before '=', got %x"),
    HEAD + "  return %x": (4, 12, "expected ',', got end of text"),
    HEAD + "  return\n}\nfunc @f() {\n  return\n}": (6, 6, "function @f is defined twice"),
    HEAD + '  kernel "k" (%x) -> %z {\n    %y = silu %x : f32[1,3]\n  }\n': (
        4,
        22,
        "the kernel's body does not define %z",
    ),
    HEAD + '  kernel "k" (%x) -> %y, %y {\n    %y = silu %x : f32[1,3]\n  }\n': (
        4,
        26,
        "the kernel's body does not define %y",
    ),
    HEAD + '  kernel "k" () -> %y {\n    %y = silu %x : f32[1,3]\n  }\n': (
        4,
        14,
        "kernel operands; expected (%x) as the body reads them, got others",
    ),
    HEAD + '  kernel "k" (%x) -> %y {\n    kernel "j" (%x) -> %y {\n': (
        5,
        5,
        "expected an operation (kernels do not nest), got kernel",
    ),
    HEAD + '  kernel "k" (%x) -> %z {\n    %y = silu %x : f32[1,3]\n    %z = silu %y : f32[1,3]\n  }\n  return %y\n}': (
        8,
        10,
        "%y is not defined here",
    ),
}


@pytest.mark.parametrize("text", BROKEN)
def test_errors_point_at_their_cause(text: str) -> None:
    line, column, message = BROKEN[text]
    with pytest.raises(ParseError) as error:
        parse_module(text, "broken.ir")
    head, source, caret = str(error.value).split("\n")
    assert head.startswith(f"broken.ir:{line}:{column}: {message}")
    assert source == "  " + text.split("\n")[line - 1]
    assert caret == "  " + " " * (column - 1) + "^"


def mutations(text: str, rng: random.Random) -> str:
    """The text with a few characters or words gone, doubled, swapped or replaced."""
    words = text.replace("\n", " \n ").split(" ")
    out = text
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(out))
        end = min(len(out), at + rng.choice((1, 1, 2, 9, 60)))
        new = rng.choice(
            ("", out[at:end] * 2, rng.choice(words), chr(rng.choice((*range(0x7F), 0xE9, 0x663, 0x2028))), "[", "{")
        )
        out = out[:at] + new + out[end:]
    return out


@pytest.mark.parametrize("path", GOLDENS, ids=lambda p: p.stem)
def test_damaged_text_gives_a_module_or_an_error_in_words(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rng = random.Random(len(text))
    outcomes = {"refused": 0, "valid": 0}
    for _ in range(700):
        damaged = mutations(text, rng)
        try:
            module = parse_module(damaged)
            verify(module)
        except (ParseError, VerifyError):
            outcomes["refused"] += 1
            continue
        outcomes["valid"] += 1
        printed = print_module(module)
        assert print_module(parse_module(printed)) == printed
    assert outcomes["refused"] > 300
    assert outcomes["valid"] > 5
