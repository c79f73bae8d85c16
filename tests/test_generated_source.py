"""What the NumPy generator prints: code of ours only, whatever the IR says, the same twice, one text for equal layers.

The IR of a plan may be hostile. It verifies before code is printed, so what is left to it are names, strings and sizes.
"""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest

from graphllm.codegen.numpy.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.errors import ParseError, PlanError
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module, Operation, Weight
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.ir.types import TensorType
from graphllm.ir.verifier import verify
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering, portable
from tests.lowered_models import STORAGES, lowered
from tests.model_zoo import ZOO, tensor_shapes

IMPORTS = {
    "math",
    "ml_dtypes",
    "numpy",
    "graphllm.codegen.kernels.numpy.attention",
    "graphllm.codegen.kernels.numpy.convert",
    "graphllm.codegen.kernels.numpy.experts",
    "graphllm.codegen.kernels.numpy.swiglu",
}
GENERATED = re.compile(r"[a-z_]+_\d+|function_\w+|run|step|[a-z]+\d+")  # names of kernels, functions, variables
PARAMETERS = {"arena", "weight", "state", "value", "position", "slot", "start", "live", "rows", "t", "r", "left"}
BUILTINS = {"float"}
METHODS = {"reshape", "view", "swapaxes", "T", "expanded", "tile"}


def check_source(source: str) -> ast.Module:
    """Raise AssertionError unless the text is nothing but generated functions over the names that they may use."""
    tree = ast.parse(source)
    assert source.isascii()
    assert re.search(r"[^\n -~]", source) is None, "something that is neither printable nor a line's end"
    imported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module in IMPORTS
            imported |= {name.asname or name.name for name in node.names}
        elif isinstance(node, ast.FunctionDef):
            assert GENERATED.fullmatch(node.name)
            assert node.name not in imported
            assert not node.decorator_list
        else:
            assert isinstance(node, ast.Expr)
            assert node is tree.body[0], "the docstring is the only other statement"
            assert isinstance(node.value, ast.Constant)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(names) == len(set(names))
    for node in ast.walk(tree):
        assert not isinstance(node, (ast.Import, ast.Global, ast.Nonlocal, ast.Lambda, ast.Await, ast.JoinedStr))
        if isinstance(node, ast.Name):
            known = imported | PARAMETERS | BUILTINS | set(names)
            assert node.id in known or GENERATED.fullmatch(node.id), node.id
        if isinstance(node, ast.Attribute):
            assert node.attr in METHODS, node.attr
    return tree


def functions_of(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", ZOO)
def test_the_text_is_code_of_ours(name: str) -> None:
    model = lowered(name)
    source = generate(model.module)
    check_source(source)
    for function in model.module.functions:
        assert f"function_{function}" in functions_of(source)


@pytest.mark.parametrize("storage", STORAGES)
def test_narrow_weights_too(storage: str) -> None:
    model = lowered("odd_interleaved", storage)  # type: ignore[arg-type]  # parametrize has no literals
    check_source(generate(model.module))
    source = generate(model.module, model.narrow)
    check_source(source)
    assert ("bind_tiled_linear(x" in source) == (storage != "f32")
    assert "weight.expanded" not in source


def test_the_text_is_the_same_twice_and_after_a_round_trip() -> None:
    model = lowered("everything", "int8")
    source = generate(model.module, model.narrow)
    assert generate(model.module, sorted(model.narrow)) == source
    assert generate(model.module, sorted(model.narrow, reverse=True)) == source
    assert generate(parse_module(print_module(model.module)), model.narrow) == source


def test_equal_layers_share_their_kernels() -> None:
    kernels: dict[int, int] = {}
    for layers in (1, 2, 7):
        config = replace(ZOO["plain"], layers=layers)
        weights = {n: Weight(n, TensorType("f32", s), None, n) for n, s in tensor_shapes(config).items()}
        module = trace(config, weights, 0, Steps(24, 2, prefill=(8,), score=4))
        module, _ = run_passes(module, (*portable(), *lowering(NUMPY)))
        names = functions_of(generate(module))
        kernels[layers] = sum(not name.startswith("function_") for name in names)
        assert len(names) - kernels[layers] == len(module.functions) == 4
        calls = re.findall(r"^        k\d+\(", generate(module), re.MULTILINE)
        assert len(calls) == sum(len(f.ops) for f in module.functions.values())
    # one layer's residual stream lies where the embedding does; from the second layer on there is nothing new
    assert kernels[7] == kernels[2]
    assert kernels[2] <= kernels[1] + 4


# Hostile text

MODULE = """\
weight @{weight} : f32[6,6]{source}
state @{state} : f32[1,1,9,6]
func @{function}(%ids: i32[1], %pos: i32[1], %slot: i32[1], %{input}: f32[1,6]) arena 128 {{
  kernel {template} (%{input}) -> %{value} {{
    %{value} = linear %{input}, @{weight} : f32[1,6] in arena+0
  }}
  %heads = reshape %{value} {{shape=[1,1,6]}} : f32[1,1,6]
  %cache = kv_write @{state}, %heads, %pos, %slot : f32[1,1,9,6]
  return %{value}, @{state} = %cache
}}
"""
PLAIN = {
    "weight": "w",
    "source": "",
    "state": "k",
    "function": "decode",
    "input": "x",
    "value": "y",
    "template": '"linear"',
}
EXPLOIT = "import os; os._exit(3)"
TEMPLATES = (
    f'"\\n{EXPLOIT}\\n"',
    f'"\\"\\"\\"\\n{EXPLOIT}"',
    f'"linear\\r{EXPLOIT}"',
    f'"linear\\u0085{EXPLOIT}"',
    f'"linear\\u2028{EXPLOIT}"',
    f'"linear\\f{EXPLOIT}"',
    f'"\\u0000{EXPLOIT}"',
    f'"x\\\\\\n{EXPLOIT}"',
    f"\"'''\\n{EXPLOIT}\"",
    '"\\ud800"',
    '"\u202e\u2066linear"',
    '"\\u007flinear"',
    '"bind_row"',
    '"function_decode"',
    '"__import__"',
    '"class"',
    '"multiply"',
    '"\u017flinear"',
    '""',
)


def hostile(**changes: str) -> Module:
    module = parse_module(MODULE.format(**(PLAIN | changes)))
    verify(module)
    return module


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_kernels_template_is_not_code(template: str) -> None:
    source = generate(hostile(template=template))
    check_source(source)
    plain = re.sub(r"\n    # .*", "", generate(hostile()))
    ours = re.sub(r"\n    # .*", "", source)
    assert ours.replace("kernel_0", "linear_0") == plain  # it reaches a comment, if anything


def test_a_comment_cannot_end_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The printer keeps strings in one line; the generator does not count on it."""
    lines = [f"{end}{EXPLOIT}" for end in ("\n", "\r", "\f", "\x85", "\u2028", "\0", "\x7f", "\ud800")]
    monkeypatch.setattr("graphllm.codegen.numpy.generate.print_operation", lambda op, indent: lines)
    check_source(generate(hostile()))


@pytest.mark.parametrize("source", [f'from "\\n{EXPLOIT}"', 'from "\\"\\"\\""', "from \"') or exit('\""])
def test_a_weights_source_is_not_in_the_text(source: str) -> None:
    text = generate(hostile(source=f" {source}"))
    check_source(text)
    assert text == generate(hostile())


@pytest.mark.parametrize(
    "name", ["import", "None", "__class__", "arena", "x.y..z", "_", "0", "1e5", "k0", "v0", "step", "numpy", "a" * 4000]
)
def test_names_are_strings_or_nothing(name: str) -> None:
    for where in ("weight", "state", "input", "value"):
        source = generate(hostile(**{where: name}))
        check_source(source)
        code = "\n".join(line for line in source.splitlines() if not line.strip().startswith("#"))
        plain = "\n".join(line for line in generate(hostile()).splitlines() if not line.strip().startswith("#"))
        assert code.replace(f"('{name}')", f"('{PLAIN[where]}')") == plain


@pytest.mark.parametrize("name", ["a.b", "x.", "0.exit"])
def test_a_function_must_have_a_name_of_python(name: str) -> None:
    with pytest.raises(PlanError, match=rf"^func @{re.escape(name)}: the numpy target takes names of A-Z a-z 0-9 _"):
        generate(hostile(function=name))


@pytest.mark.parametrize("name", ["row", "block", "rows", "tiled_linear", "class", "0", "__init__", "linear_0"])
def test_a_functions_name_hides_nothing(name: str) -> None:
    source = generate(hostile(function=name))
    check_source(source)
    assert source.replace(f"function_{name}", "function_decode") == generate(hostile())


@pytest.mark.parametrize("bad", ["a b", "a'b", 'a"b', "a\\nb", "é", "a;b", "a(b", "@w"])
def test_other_names_do_not_parse(bad: str) -> None:
    for where in ("weight", "state", "function", "input", "value"):
        with pytest.raises(ParseError):
            hostile(**{where: bad})


# What it has no code for


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("%y = concat %x, %x : f32[4,6] in arena+0", "concat giving %y: the numpy target has no code"),
        ("%y = interleave %x {heads=1} : f32[2,6] in arena+0", "interleave giving %y: the numpy target has no code"),
        ('%y = rope_frequencies {kind="default", pairs=3, theta=1e4} : f32[3] in arena+0', "rope_frequencies giving"),
        ("%y = silu @h : f16[3,6] in arena+0", r"silu giving %y: the numpy target computes in f32, got f16\[3,6\]"),
        ("%y = add @b, @b : bf16[6] in arena+0", r"add giving %y: the numpy target computes in f32, got bf16\[6\]"),
        ("%y = add %x1, @one : f32[1,6] in arena+0", "add giving %y: .* no code for a stored tensor @one of one row"),
        ("%y = rmsnorm %x, @w1 {eps=1e-5} : f32[2,6] in arena+0", "rmsnorm giving %y: needs 8 bytes of scratch, got N"),
        (
            "%y = rmsnorm %x, @w1 {eps=1e-5} : f32[2,6] in arena+0 scratch arena+64:4",
            r"rmsnorm giving %y: needs 8 bytes of scratch, got \(64, 4\)",
        ),
        ("%y = silu %x : f32[2,6]", "%y: has no place in the arena; the numpy target"),
    ],
)
def test_unsupported_is_a_plan_error(body: str, message: str) -> None:
    text = (
        "weight @h : f16[3,6] weight @b : bf16[6] weight @one : f32[1,6] weight @w1 : f32[6]\n"
        f"func @decode(%x: f32[2,6], %x1: f32[1,6]) arena 256 {{\n  {body}\n  return %y\n}}\n"
    )
    with pytest.raises(PlanError, match=rf"^{message}"):
        generate(parse_module(text))


def test_rows_stand_where_the_step_says() -> None:
    """The code is told once where its rows are; an operation that would have them elsewhere is refused."""
    module = lowered("plain").module

    def swapped(op: Operation) -> Operation:
        if op.body is None:
            return op
        inner = [
            replace(o, operands=(*o.operands[:-2], *o.operands[:-3:-1])) if o.name == "attention" else o
            for o in op.body.ops
        ]
        return replace(op, body=replace(op.body, ops=tuple(inner)))

    decode = module.functions["decode"]
    changed = replace(decode, ops=tuple(map(swapped, decode.ops)))
    with pytest.raises(PlanError, match=r"^attention giving %l0\.att: its pos is %slot; expected the input %pos"):
        generate(replace(module, functions={"decode": changed}))
    with pytest.raises(PlanError, match=r"^func @decode: its memory was not planned; run plan-memory first"):
        generate(replace(module, functions={"decode": replace(decode, arena=None)}))
