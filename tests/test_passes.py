"""Each pass does what its own docstring shows, what its golden cases show, and nothing where a rule does not apply.

A golden case is ``golden/passes/<pass>/<case>.ir``: a module, ``// ----- after``, and what becomes of it. Run pytest
with ``--update-golden`` to write what comes out, then read the difference.
"""

from __future__ import annotations

import importlib
import re
import textwrap
from functools import partial
from pathlib import Path

import pytest

from graphllm.codegen.cpu.target import CPU
from graphllm.codegen.numpy.target import NUMPY
from graphllm.errors import PassError
from graphllm.ir import Module, Operation, Value, parse_module, print_module, verify
from graphllm.ir.types import TensorType
from graphllm.passes.cast import cast
from graphllm.passes.manager import Pass, run_passes
from graphllm.passes.pattern import Pattern, match, parse_pattern
from graphllm.passes.pipeline import by_name, lowering, portable
from graphllm.passes.quantize_int8 import Quantization, quantize_int8
from graphllm.passes.rewrite import Rule, rewrite

ROOT = Path(__file__).parent / "golden" / "passes"
SEPARATOR = "// ----- after\n"
INT8 = Quantization("int8-dynamic", group=4)
PASSES = by_name(NUMPY, "bf16", INT8) | {"narrow-rows": by_name(CPU)["narrow-rows"]}
CASES = sorted(ROOT.glob("*/*.ir"))


def run(name: str, module: Module) -> Module:
    verify(module)
    after, _ = run_passes(module, [PASSES[name]])
    return after


def test_pipelines_are_complete() -> None:
    names = [p.name for p in (*portable("bf16", INT8), *lowering(NUMPY))]
    assert names == [name for name in PASSES if name != "narrow-rows"]
    assert {p.parent.name for p in CASES} == set(PASSES), "every pass has golden cases"
    assert not {"cast", "quantize-int8", "quantize-rows", "narrow-rows"} & set(by_name(NUMPY))
    assert "quantize-rows" not in by_name(NUMPY, None, Quantization("int8"))


@pytest.mark.parametrize("name", PASSES)
def test_the_docstring_tells_the_truth(name: str) -> None:
    doc = importlib.import_module(f"graphllm.passes.{name.replace('-', '_')}").__doc__ or ""
    found = re.search(r"^before[^\n]*:\n(.*?)^after:\n(.*)\Z", doc, re.MULTILINE | re.DOTALL)
    assert found is not None, "no example"
    before, after = (parse_module(textwrap.dedent(text)) for text in found.groups())
    assert without_blanks(print_module(before)) == without_blanks(textwrap.dedent(found[1])), "not as it is printed"
    assert without_blanks(print_module(run(name, before))) == without_blanks(textwrap.dedent(found[2]))
    verify(after)
    assert print_module(before) != print_module(after)


def without_blanks(text: str) -> str:
    return "".join(f"{line}\n" for line in text.split("\n") if line.strip())


@pytest.mark.parametrize("path", CASES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    before, _, after = text.partition(SEPARATOR)
    got = print_module(run(path.parent.name, parse_module(before, str(path))))
    if request.config.getoption("--update-golden"):
        path.write_text(before + SEPARATOR + got, encoding="utf-8")
    else:
        assert got == after
    if path.stem.startswith("not_"):
        assert got == print_module(parse_module(before)), "a case called not_… must stay as it is"


@pytest.mark.parametrize("path", [p for p in CASES if p.parent.name != "plan-memory"], ids=lambda p: p.parent.name)
def test_a_pass_run_twice_changes_nothing_more(path: Path) -> None:
    once = run(path.parent.name, parse_module(path.read_text(encoding="utf-8").partition(SEPARATOR)[0]))
    assert print_module(run(path.parent.name, once)) == print_module(once)


# Patterns and rules


def test_patterns_are_parsed() -> None:
    assert parse_pattern("x") == Pattern("", "x", ())
    assert parse_pattern("f()") == Pattern("f", "", ())
    x, y = Pattern("", "x", ()), Pattern("", "y", ())
    assert parse_pattern("mul(silu(x), y)") == Pattern("mul", "", (Pattern("silu", "", (x,)), y))
    for broken in ("f(x) y", "f(x)) ", "x, y"):
        with pytest.raises(AssertionError):
            parse_pattern(broken)


def operation(name: str, *operands: Value) -> Operation:
    return Operation(name, operands, {}, (Value(f"{name}.out", TensorType("f32", (1, 2))),))


def test_patterns_match_producers() -> None:
    a, b = (Value(n, TensorType("f32", (1, 2))) for n in "ab")
    silu = operation("silu", a)
    mul = operation("mul", silu.result, b)
    made = {id(silu.result): silu}

    def producer(v: Value) -> Operation | None:
        return made.get(id(v))

    found = match(parse_pattern("mul(silu(x), y)"), mul, producer)
    assert found is not None
    assert (found["x"], found["y"], found.op("silu"), found.op("mul")) == (a, b, silu, mul)
    for other in ("mul(x)", "add(x, y)", "mul(x, silu(y))", "mul(x, x)", "mul(silu(x), x)", "silu(x)"):
        assert match(parse_pattern(other), mul, producer) is None
    assert match(parse_pattern("mul(x, x)"), operation("mul", a, a), producer) is not None
    assert match(parse_pattern("mul(silu(x), y)"), mul, lambda v: None) is None


CHAIN = "func @f(%x: f32[1,4], %y: f32[1,4]) {\n  %a = add %x, %y : f32[1,4]\n  return %a\n}\n"
SWAP = Rule("add(x, y) => add(y, x)", lambda m, b: b.emit("add", (m["y"], m["x"]), {}))


def test_rules_that_undo_each_other_are_our_bug_and_say_so() -> None:
    with pytest.raises(PassError, match="func @f: rewriting did not settle after 11 sweeps; two rules undo each other"):
        rewrite(parse_module(CHAIN), [SWAP])
    there = Rule("add(x, y) => mul(x, y)", lambda m, b: b.emit("mul", (m["x"], m["y"]), {}))
    back = Rule("mul(x, y) => add(x, y)", lambda m, b: b.emit("add", (m["x"], m["y"]), {}))
    with pytest.raises(PassError, match="did not settle"):
        rewrite(parse_module(CHAIN), [there, back])


def test_a_rule_may_give_an_operand_back() -> None:
    text = CHAIN.replace("return %a", "%b = silu %a : f32[1,4]\n  return %b")
    after = rewrite(parse_module(text), [Rule("add(x, y) => x", lambda m, b: (m["x"],))])
    assert "silu %x" in print_module(after)
    verify(after)


def test_a_broken_pass_is_named() -> None:
    module = parse_module(CHAIN)

    def forget(m: Module) -> Module:
        f = m.functions["f"]
        return Module(m.weights, m.states, {"f": type(f)(f.name, f.inputs, (), f.results)})

    def forget_in_place(m: Module) -> Module:
        m.functions["f"] = forget(m).functions["f"]  # type: ignore[index]
        return m

    nothing = Pass("nothing", lambda m: m)
    told = "left a broken module: func @f: return: %a is used"
    for step in (forget, forget_in_place):
        with pytest.raises(PassError, match=f"pass forget: {told}"):
            run_passes(parse_module(CHAIN), [nothing, Pass("forget", step)])
    with pytest.raises(PassError, match=f"pass nothing: {told}"):
        run_passes(forget(module), [nothing])


def test_reports_and_dumps(tmp_path: Path) -> None:
    module = parse_module((ROOT.parent / "ir" / "traced.ir").read_text(encoding="utf-8"))
    after, reports = run_passes(module, (*portable(), *lowering(NUMPY)), dump=tmp_path / "ir", first=1)
    assert [r.name for r in reports] == list(by_name(NUMPY))
    changed = [f"{i:02d}-{r.name}.ir" for i, r in enumerate(reports, 1) if r.changed]
    assert sorted(p.name for p in (tmp_path / "ir").iterdir()) == changed
    last = (tmp_path / "ir" / changed[-1]).read_text(encoding="utf-8")
    assert last == print_module(after)
    assert reports[-1].arena == max(f.arena or 0 for f in after.functions.values())
    assert reports[-1].kernels == len(after.functions["decode"].ops)
    assert reports[-1].bytes_per_step < reports[0].bytes_per_step
    assert "milliseconds" not in reports[0].as_json()
    (tmp_path / "file").write_text("")
    with pytest.raises(PassError, match="cannot write the IR"):
        run_passes(module, portable(), dump=tmp_path / "file")


def test_cast_leaves_what_is_stored_so() -> None:
    text = print_module(parse_module((ROOT.parent / "ir" / "traced.ir").read_text(encoding="utf-8")))
    again = run_passes(parse_module(text), [Pass("cast", partial(cast, dtype="bf16"))])[0]
    assert print_module(again) == text


KEPT = """
weight @tok_emb : f32[8,12] from "model.embed_tokens.weight"
weight @l0.w_down : f32[12,20] from "model.layers.0.mlp.down_proj.weight"
weight @l0.wq : f32[4,12] from "model.layers.0.self_attn.q_proj.weight"
weight @l0.wk : f32[2,12] from "model.layers.0.self_attn.k_proj.weight"
weight @l0.wq_wk : f32[6,12] = concat @l0.wq, @l0.wk
func @f(%ids: i32[1], %y: f32[1,20]) {
  %x = embed %ids, @tok_emb : f32[1,12]
  %qk = linear %x, @l0.wq_wk : f32[1,6]
  %s = silu %qk : f32[1,6]
  %d = linear %y, @l0.w_down : f32[1,12]
  %logits = linear %d, @tok_emb : f32[1,8]
  return %s, %logits
}
"""


@pytest.mark.parametrize(
    ("keep", "rounded"),
    [
        ((), {"tok_emb", "l0.w_down", "l0.wq_wk"}),
        (("lm_head",), {"l0.w_down", "l0.wq_wk"}),  # tied: the same matrix
        (("tok_emb",), {"l0.w_down", "l0.wq_wk"}),
        (("embed_tokens",), {"l0.w_down", "l0.wq_wk"}),
        (("wk",), {"tok_emb", "l0.w_down"}),  # a part of a stacked one keeps it all
        (("self_attn.q*weight", "down"), {"tok_emb"}),
        (("*",), set()),
    ],
)
def test_kept_matrices(keep: tuple[str, ...], rounded: set[str]) -> None:
    after = quantize_int8(parse_module(KEPT), Quantization("int8", keep=keep))
    verify(after)
    assert {n.removesuffix(".int8") for n in after.weights if n.endswith(".int8")} == rounded


def test_a_pattern_that_nothing_answers_to() -> None:
    words = r"keep: no matrix is called 'lm_haed'; expected a part of a name, of "
    with pytest.raises(PassError, match=words) as error:
        quantize_int8(parse_module(KEPT), Quantization("int8", keep=("down", "lm_haed")))
    assert "\n" not in str(error.value)
