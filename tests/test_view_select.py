"""Parts of modules: only what belongs to the function or layer asked for, and what that touches."""

from __future__ import annotations

import re

import pytest

from graphllm.errors import GraphLLMError
from graphllm.ir import Module, print_function, print_module
from graphllm.view.scope import any_layer, layer_of_name, without_scope
from graphllm.view.select import print_selection, select
from tests.model_zoo import ZOO
from tests.view_modules import lowered, traced


@pytest.mark.parametrize("name", ["plain", "everything", "window_some", "tied"])
@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_the_layers_share_out_the_function(name: str, stage: str) -> None:
    module = traced(ZOO[name]) if stage == "traced" else lowered(ZOO[name])
    function = module.functions["decode"]
    seen: list[int] = []
    for layer in range(ZOO[name].layers):
        part = select(module, "decode", layer)
        (chosen,) = part.functions.values()
        seen += map(id, chosen.ops)
        names = {v.name for op in chosen.walk() for v in op.results}
        assert names
        assert {layer_of_name(n) for n in names} == {layer}
        assert {layer_of_name(n) for n in part.weights} <= {layer, None}
        assert set(part.states) == {f"kv.{layer}.k", f"kv.{layer}.v"} == {s.name for s, _ in chosen.updates}
    rest = [op for op in function.ops if id(op) not in seen]
    assert len(seen) == len(set(seen)) == len(function.ops) - len(rest)
    assert all(layer_of_name(v.name) is None for op in rest for v in op.results)


def test_a_function_keeps_just_what_it_reads() -> None:
    module = lowered(ZOO["plain"])
    text = print_selection(module, "decode", None)
    assert text.endswith(print_function(module.functions["decode"]))
    assert re.findall(r"^func @(\w+)", text, re.M) == ["decode"]
    named = set(re.findall(r"@[\w.]+", text.split("func ")[1])) - {"@decode"}
    declared = set(re.findall(r"^(?:weight|state) (@[\w.]+)", text, re.M))
    assert named <= declared, "everything it names is there"
    sources = {v.ref for w in module.weights.values() if w.definition for v in w.definition.operands}
    assert declared <= named | sources, "and nothing else but what weights are computed from"
    kept = select(module, "decode", None).weights
    computed = [w.definition for w in kept.values() if w.definition is not None]
    assert any(op.operands for op in computed)
    assert all(kept[v.name] is v for op in computed for v in op.operands), "a definition's operands stay beside it"


def test_no_choice_is_the_whole_module() -> None:
    module = lowered(ZOO["plain"])
    assert print_selection(module, None, None) == print_module(module)
    every = select(module, None, 1)
    assert list(every.functions) == list(module.functions)


@pytest.mark.parametrize(
    ("function", "layer", "message"),
    [
        ("encode", None, r"func @encode: no such function; expected one of decode, .*, got 'encode'"),
        ("encode", 0, r"func @encode: no such function"),
        ("decode", 2, r"layer 2 of func @decode: no such layer; expected 0 to 1, got 2"),
        (None, -1, r"layer -1: no such layer; expected 0 to 1, got -1"),
    ],
)
def test_what_is_not_there_is_refused_by_naming_what_is(function: str | None, layer: int | None, message: str) -> None:
    with pytest.raises(GraphLLMError, match=message) as caught:
        print_selection(lowered(ZOO["plain"]), function, layer)
    assert "\n" not in str(caught.value)


def test_an_empty_module_says_so() -> None:
    with pytest.raises(GraphLLMError, match="the module has no functions"):
        select(Module(), "decode", None)
    with pytest.raises(GraphLLMError, match="its names carry no layers"):
        select(Module(), None, 0)


def test_scopes_of_names() -> None:
    assert [layer_of_name(n) for n in ("l0.q", "l21.wo.f32", "kv.3.k")] == [0, 21, 3]
    assert not any(map(layer_of_name, ("logits", "lm_head", "l.q", "x.l1.q", "l01.q", "l1", "kv.k")))
    assert without_scope("l7.att.flat") == "att.flat"
    assert [any_layer(n, 4) for n in ("l4.wo", "kv.5.k", "norm")] == ["l{i}.wo", "kv.{i+1}.k", "norm"]
