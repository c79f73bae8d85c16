"""Maps of the arena: nothing alive at once lies on anything else, the peak is the planner's lower bound."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest

from graphllm.errors import GraphLLMError
from graphllm.frontends.config import ModelConfig
from graphllm.ir import parse_module
from graphllm.passes.plan_memory import arena_bounds
from graphllm.view.arena import in_use, peak, steps, stretches
from graphllm.view.memory_map import memory_map_svg, memory_map_text
from tests.model_zoo import BASE, ZOO
from tests.view_modules import HOSTILE, TINYLLAMA, lowered, traced

SVG = "{http://www.w3.org/2000/svg}"

SMALL = """
func @f(%x: f32[1,16]) arena 192 {
  %a = silu %x : f32[1,16] in arena+0
  %b = silu %a : f32[1,16] in arena+64 scratch arena+128:64
  %c = add %a, %b : f32[1,16] in arena+0
  return %c
}
""".lstrip()


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("config", ZOO.values(), ids=ZOO)
def test_stretches_share_memory_only_by_taking_over(config: ModelConfig, stepwise: bool) -> None:
    for function in lowered(config, stepwise=stepwise).functions.values():
        found = stretches(function)
        for (i, a), (j, b) in combinations(enumerate(found), 2):
            together = a.first <= b.last and b.first <= a.last
            if together and a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes:
                old, new = (a, b) if b.heir_of == i else (b, a)
                assert new.heir_of == (i if old is a else j), (a, b)
                assert old.offset == new.offset
                assert old.last == new.first, "they share the one step that reads the old and writes the new"
        assert peak(found)[1] == arena_bounds(function)[1]
        placed = {f"%{v.name}" for op in function.walk() for v in op.results if v.arena is not None}
        assert placed == {s.name for s in found if s.role != "scratch"}
        assert sum(op.scratch is not None for op in function.walk()) == sum(s.role == "scratch" for s in found)
        assert max(s.offset + s.bytes for s in found) <= (function.arena or 0)


@pytest.mark.parametrize("stepwise", [True, False])
@pytest.mark.parametrize("name", ["plain", "window_some", "everything"])
def test_rectangles_never_overlap(name: str, stepwise: bool) -> None:
    for function in lowered(ZOO[name], stepwise=stepwise).functions.values():
        root = ElementTree.fromstring(memory_map_svg(function))
        groups = [g for g in root.iter(f"{SVG}g") if g.get("class") == "stretch"]
        assert len(groups) == len(stretches(function))
        rects = [next(g.iter(f"{SVG}rect")) for g in groups]
        boxes = [tuple(float(r.get(k, "")) for k in ("x", "y", "width", "height")) for r in rects]
        for (ax, ay, aw, ah), (bx, by, bw, bh) in combinations(boxes, 2):
            slack = 0.25  # rounding to a tenth
            across = ax + aw > bx + slack and bx + bw > ax + slack
            down = ay + ah > by + slack and by + bh > ay + slack
            assert not (across and down)


def test_a_takeover_is_visible_and_the_peak_is_listed() -> None:
    function = parse_module(SMALL).functions["f"]
    found = stretches(function)
    assert [(s.name, s.first, s.last, s.heir_of) for s in found] == [
        ("%a", 0, 2, -1),
        ("%b", 1, 2, -1),
        ("%c", 2, 3, 0),
        ("silu for %b", 1, 1, -1),
    ]
    assert peak(found) == (1, 192)
    assert [s.name for s in in_use(found, 1)] == ["%a", "%b", "silu for %b"]
    assert [s.name for s in in_use(found, 2)] == ["%c", "%b"], "of two in one place the later"
    root = ElementTree.fromstring(memory_map_svg(function))
    marked = next(g for g in root.iter(f"{SVG}g") if g.get("class") == "peak")
    assert marked.get("data-id") == "1"
    assert {"a", "b", "silu for %b"} <= {t.text for t in marked.iter(f"{SVG}text")}
    taken = next(g for g in root.iter(f"{SVG}g") if g.get("data-id") == "%c")
    assert "in place of %a" in "".join(taken.itertext())
    assert memory_map_text(function).splitlines() == [
        "@f: arena 192 bytes, at most 192 in use at once (*), at step 1",
        "address  bytes  steps   role     what",
        "      0     64  0 to 2  between  %a f32[1,16] *",
        "     64     64  1 to 2  between  %b f32[1,16] *",
        "    128     64  1       scratch  silu for %b *",
        "      0     64  2 to 3  result   %c f32[1,16], in place of %a",
    ]


def test_every_kernel_has_its_tick() -> None:
    function = lowered(TINYLLAMA).functions["decode"]
    root = ElementTree.fromstring(memory_map_svg(function))
    ticks = [g for g in root.iter(f"{SVG}g") if g.get("class") == "tick"]
    titles = [next(t.iter(f"{SVG}title")).text for t in ticks]
    assert titles == [f"kernel {op.template}" for op in function.ops]
    assert len(steps(function)) == sum(1 for _ in function.walk())
    text = "".join(root.itertext())
    assert all(f"layer {i}" in text for i in range(22))
    small = ElementTree.fromstring(memory_map_svg(lowered(BASE).functions["decode"]))
    names = [t.text for t in small.iter(f"{SVG}text")]
    kernels = lowered(BASE).functions["decode"].ops
    assert len([n for n in names if n in {"linear", "attention", "rotation", "embed"}]) == len(kernels)


def test_hostile_names_stay_text_and_the_map_is_the_same_each_time() -> None:
    function = lowered(BASE).functions["decode"]
    hostile = replace(function, name=HOSTILE, ops=tuple(replace(op, template=HOSTILE) for op in function.ops))
    svg = memory_map_svg(hostile)
    assert "<script" not in svg
    assert not re.search(r"[\x00-\x08\x1b\u202e]", svg)
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
    assert svg == memory_map_svg(hostile)


def test_without_a_plan_it_says_what_to_do() -> None:
    with pytest.raises(GraphLLMError, match=r"func @decode: has no memory plan; .*plan-memory"):
        memory_map_svg(traced(BASE).functions["decode"])


def test_a_hostile_name_reaches_no_terminal() -> None:
    kernel = """
func @f(%x: f32[1,16]) arena 128 {
  kernel "\\u001b[2J\\n" (%x) -> %a scratch arena+64:64 {
    %a = silu %x : f32[1,16] in arena+0
  }
  return %a
}
"""
    text = memory_map_text(parse_module(kernel).functions["f"])
    assert "\x1b" not in text
    assert len(text.splitlines()) == 4
