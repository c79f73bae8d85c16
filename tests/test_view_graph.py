"""Drawings of functions: everything is in them, equal layers are drawn once, and no name can break out of the file."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import networkx as nx
import pytest

from graphllm.errors import GraphLLMError
from graphllm.frontends.config import ModelConfig
from graphllm.ir import Module, TensorType, Value, Weight, parse_module
from graphllm.ir.core import Function
from graphllm.view.dot import to_dot
from graphllm.view.fold import distinct_kernels, fold_layers, signature
from graphllm.view.graph import layered_graph
from graphllm.view.picture import drawing, edges, nodes
from graphllm.view.svg_graph import to_svg
from graphllm.view.svg_layout import lay_out
from graphllm.view.svg_paper import EM
from tests.model_zoo import BASE, ZOO
from tests.view_modules import HOSTILE, TINYLLAMA, lowered, traced

SVG = "{http://www.w3.org/2000/svg}"


def windows(*sizes: int) -> ModelConfig:
    return replace(BASE, layers=len(sizes), windows=sizes)


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        (TINYLLAMA, [22]),
        (windows(0), [1]),
        (windows(0, 0, 0, 5, 5), [3, 2]),
        (windows(5, 0, 0), [1, 2]),
        (windows(0, 5, 0, 5, 0, 5), [3]),
        (windows(0, 0, 5, 0, 0, 5, 0), [2, 1]),
        (windows(1, 2, 3), [1, 1, 1]),
    ],
    ids=["22 alike", "one", "two runs", "first apart", "alternating", "two and one", "all apart"],
)
@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_layers_fold_where_they_are_alike(config: ModelConfig, counts: list[int], stage: str) -> None:
    module = traced(config) if stage == "traced" else lowered(config)
    for name in module.functions:
        frames = drawing(layered_graph(module, name)).frames.values()
        assert [len(f.layers) for f in frames] == counts
        assert sorted(i for f in frames for unit in f.layers for i in unit) == list(range(config.layers))


@pytest.mark.parametrize("config", ZOO.values(), ids=ZOO)
def test_unfolding_gives_the_function_back(config: ModelConfig) -> None:
    for module in (traced(config), lowered(config)):
        for function in module.functions.values():
            segments = fold_layers(function)
            ops = [op for s in segments for unit in s.units for op in unit]
            assert {id(op) for op in ops} == {id(op) for op in function.ops}
            assert len(ops) == len(function.ops)
            for s in segments:
                assert len({signature(unit) for unit in s.units}) == 1
            weights = {id(v) for op in function.walk() for v in op.operands if isinstance(v, Weight)}
            drawn = layered_graph(module, function.name)
            assert len([n for n in nodes(drawn).values() if n.kind == "weight"]) <= len(weights)


def test_the_picture_holds_every_kernel_and_operation_it_draws() -> None:
    module = lowered(TINYLLAMA)
    function = module.functions["decode"]
    graph = layered_graph(module, "decode")
    whole = drawing(graph)
    one_layer = [op for op in function.ops if "l0." in "".join(v.name for v in op.results)]
    rest = [op for op in function.ops if not any(re.match(r"l\d+\.", v.name) for v in op.results)]
    expected = [op for op in function.ops if op in rest or op in one_layer]
    assert [k.template for k in whole.kernels.values()] == [op.template for op in expected]
    for kernel, op in zip(whole.kernels.values(), expected, strict=True):
        assert op.body is not None
        assert [nodes(graph)[n].label for n in kernel.ops] == [o.name for o in op.body.ops]
    root = ElementTree.fromstring(to_svg(graph))
    groups = {g.get("data-id"): g for g in root.iter(f"{SVG}g")}
    dot = to_dot(graph)
    for kernel in whole.kernels.values():
        inside = [g.get("data-id") for g in groups[kernel.id].iter(f"{SVG}g") if g.get("class") == "op"]
        assert inside == list(kernel.ops)
        assert f'"cluster {kernel.id}"' in dot
        for name in kernel.ops:
            node = nodes(graph)[name]
            texts = [t.text for t in groups[name].iter(f"{SVG}text")]
            assert node.label in texts
            assert any(node.results[0].type in (t or "") for t in texts)
    assert "x22 layers" in "".join(root.itertext())
    assert len(to_svg(graph)) < 60_000, "22 layers must not make 22 drawings"


def test_a_fold_says_what_differs_and_what_is_carried() -> None:
    graph = layered_graph(lowered(windows(0, 0, 5, 5)), "decode")
    first, second = drawing(graph).frames.values()
    assert "@l{i}.wo" in first.own
    assert "@kv.{i}.k" in first.own
    assert not any("rope" in name for name in (*first.own, *second.own)), "shared by all layers"
    assert [line for line in second.unlike if "window=5" in line]
    loops = [(a, b) for a, b, e in edges(graph) if e.loop]
    assert len(loops) == 2
    assert all(nodes(graph)[b].kind == "carried" for _, b in loops)
    plain = nx.DiGraph([(a, b) for a, b, e in edges(graph) if not e.loop])
    assert nx.is_directed_acyclic_graph(plain)


def test_layers_that_skip_one_another_are_not_folded() -> None:
    text = """
func @f(%x: f32[1,4]) {
  %l0.a = silu %x : f32[1,4]
  %l1.a = silu %l0.a : f32[1,4]
  %l2.a = silu SOURCE : f32[1,4]
  return %l2.a
}
"""
    for source, folded in (("%l1.a", 3), ("%l0.a", 1), ("%x", 1)):
        function = parse_module(text.replace("SOURCE", source).lstrip()).functions["f"]
        assert max(len(s.units) for s in fold_layers(function)) == (folded if folded == 3 else 2), source
    leaking = parse_module(text.replace("SOURCE", "%l1.a").replace("return %l2.a", "return %l2.a, %l1.a").lstrip())
    units = [len(s.units) for s in fold_layers(leaking.functions["f"])]
    assert units == [2, 1], "what is read later must be of a last repetition"


def test_distinct_kernels_ignore_names_only() -> None:
    module = lowered(TINYLLAMA)
    assert distinct_kernels(module, "decode") == 8
    assert distinct_kernels(lowered(windows(0, 5, 0)), "decode") == 9


def renamed(module: Module, text: str) -> Module:
    """The module with a hostile template name on every kernel and hostile inputs, as an edited plan could have."""
    functions: dict[str, Function] = {}
    for name, f in module.functions.items():
        ops = tuple(replace(op, template=f"{op.template}{text}") if op.body else op for op in f.ops)
        functions[name] = replace(f, ops=ops)
    return Module(module.weights, module.states, functions)


@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_hostile_names_stay_text(stage: str) -> None:
    module = renamed(traced(BASE) if stage == "traced" else lowered(BASE), HOSTILE)
    graph = layered_graph(module, "decode")
    svg = to_svg(graph)
    assert "<script" not in svg
    assert "\x1b" not in svg
    assert "\u202e" not in svg
    root = ElementTree.fromstring(svg)
    known = ("svg", "title", "style", "defs", "marker", "pattern", "g", "rect", "path", "text")
    assert {e.tag for e in root.iter()} <= {SVG + name for name in known}
    assert any("</svg><script>" in (t.text or "") for t in root.iter()), "shown as it is, escaped"
    dot = to_dot(graph)
    strings = re.sub(r'"(?:[^"\\]|\\.)*"', '""', dot)
    assert "script" not in strings
    assert re.fullmatch(r'[\w\s\[\]{}=,;:>\-"]*', strings), "outside of strings only what we wrote"


def test_pictures_are_the_same_each_time() -> None:
    module = lowered(ZOO["window_some"])
    for name in module.functions:
        a, b = layered_graph(module, name), layered_graph(module, name)
        assert to_svg(a) == to_svg(b)
        assert to_dot(a) == to_dot(b)


@pytest.mark.parametrize("config", ZOO.values(), ids=ZOO)
@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_nothing_lies_on_anything_else(config: ModelConfig, stage: str) -> None:
    """Boxes do not overlap, text stays in its box, and no line crosses a label."""
    graph = layered_graph(traced(config) if stage == "traced" else lowered(config), "decode")
    layout = lay_out(graph, 0, 0)
    boxes = list(layout.boxes.values())
    for i, a in enumerate(boxes):
        assert a.starts[-1] <= a.w + 2 or a.pill
        for b in boxes[i + 1 :]:
            apart = a.y + a.h <= b.y or b.y + b.h <= a.y or a.x + a.w <= b.x - b.chips_width
            assert apart or b.x + b.w <= a.x - a.chips_width, (a.id, b.id)
    root = ElementTree.fromstring(to_svg(graph))
    values = [g for g in root.iter(f"{SVG}g") if g.get("class") == "value"]
    labels: list[tuple[float, float, float, float]] = []
    for text in (t for g in values for t in g.iter(f"{SVG}text")):
        x, y, size = (float(text.get(k, "")) for k in ("x", "y", "font-size"))
        labels.append((x, y - size * 0.7, x + len(text.text or "") * size * EM, y + 1))
    assert labels
    for path in (p for g in values for p in g.iter(f"{SVG}path")):
        points = [tuple(map(float, p.split())) for p in path.get("d", "")[1:].split(" L")]
        for (xa, ya), (xb, yb) in pairwise(points):
            for x0, y0, x1, y1 in labels:
                crosses = min(xa, xb) < x1 and max(xa, xb) > x0 and min(ya, yb) < y1 and max(ya, yb) > y0
                assert not crosses, (path.get("d"), (x0, y0, x1, y1))


def test_an_unknown_function_is_named() -> None:
    with pytest.raises(GraphLLMError, match=r"func @nope: no such function; expected one of decode, .*got 'nope'"):
        layered_graph(lowered(BASE), "nope")


def test_a_function_of_nothing_is_drawn() -> None:
    x = Value("x", TensorType("f32", (1, 4)))
    module = Module(functions={"f": Function("f", (x,), (), (x,))})
    assert ElementTree.fromstring(to_svg(layered_graph(module, "f"))).tag == f"{SVG}svg"


@pytest.mark.parametrize("config", ZOO.values(), ids=ZOO)
@pytest.mark.parametrize("stage", ["traced", "lowered"])
def test_no_two_values_run_along_the_same_line(config: ModelConfig, stage: str) -> None:
    graph = layered_graph(traced(config) if stage == "traced" else lowered(config), "prefill_8")
    root = ElementTree.fromstring(to_svg(graph))
    taken: list[tuple[int, float, float, float, bool]] = []  # value, fixed coordinate, from, to, upright
    for number, group in enumerate(g for g in root.iter(f"{SVG}g") if g.get("class") == "value"):
        for path in group.iter(f"{SVG}path"):
            points = [tuple(map(float, p.split())) for p in path.get("d", "")[1:].split(" L")]
            for (xa, ya), (xb, yb) in pairwise(points):
                upright = xa == xb
                assert upright or ya == yb
                low, high = sorted((ya, yb) if upright else (xa, xb))
                fixed = xa if upright else ya
                for other, at, start, end, same in taken:
                    if other != number and same is upright and abs(at - fixed) < 1:
                        assert end <= low + 0.2 or high <= start + 0.2, path.get("d")
                taken.append((number, fixed, low, high, upright))
