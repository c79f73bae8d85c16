"""The data of ``graphllm report``: true to the plan, described by its schema."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import graphllm
from graphllm.api.report import report_subject
from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.launches.bytes_moved import step_moved
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_function, print_module
from graphllm.passes.manager import Pass, run_passes
from graphllm.passes.pipeline import lowering, portable
from graphllm.view.report.data import report_json
from graphllm.view.report.packed import packed, unpacked
from graphllm.view.report.page import report_page
from graphllm.view.report.passes import changes, only_layers, shown_layers
from graphllm.view.report.subject import Rates, Snapshot, Source, Subject
from tests.report_plans import plan_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    """Three layers of two kinds, int8, for native code, with its rounding measured."""
    plan = plan_of(folder, "window_some", quantize="int8", target="cpu", measure=True, slots=2)
    return report_subject(plan, rates=Rates(2e9, 1e12, "as given"))


@pytest.fixture(scope="module")
def data(subject: Subject) -> dict[str, Any]:
    return json.loads(json.dumps(report_json([subject])))


def test_schema(data: dict[str, Any], folder: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(data["schema"])
    validator = jsonschema.Draft202012Validator(data["schema"])
    validator.validate(data)
    validator.validate(report_json([report_subject(plan_of(folder, "plain")), report_subject(folder / "plain")]))
    broken = data | {"plans": [data["plans"][0] | {"findings": [{"kind": "x"}]}]}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_figures_are_the_plans(data: dict[str, Any], subject: Subject, folder: Path) -> None:
    (plan,) = data["plans"]
    with graphllm.plan.plan_file.PlanFile.open(next(folder.glob("window_some-*.gllm"))) as file:
        assert plan["overview"]["weights"]["bytes"] == file.weight_bytes
        assert [w["name"] for w in plan["weights"]] == [w.name for w in subject.lowered.stored_weights()]
        assert {w["name"]: w["bytes"] for w in plan["weights"]} == {n: s.nbytes for n, s in file.weights.items()}
        assert file.sections["lowered/cpu"] == print_module(subject.lowered)  # what the passes made again is the plan's
        states = [s.type.bytes for s in subject.lowered.states.values()]
        assert plan["overview"]["cache"]["bytes"] == sum(states)
    assert plan["notes"] == []
    decode = next(s for s in plan["overview"]["steps"] if s["function"] == "decode")
    assert decode["seconds_empty"] == pytest.approx(max(decode["bytes_empty"] / 2e9, decode["flops_full"] / 1e12), 1e-5)
    cache = 2 * sum(s.type.bytes for s in subject.lowered.states.values()) // 2 // 2  # one of two slots
    assert decode["bytes_full"] == decode["bytes_empty"] + cache
    rounded = [w for w in plan["weights"] if "error" in w]
    assert rounded
    assert all(w["dtype"] == "i8" and 0 < w["error"] < 0.02 for w in rounded)
    assert all(t["source"] for w in rounded for t in w["from"])


def test_passes_tell_every_change(data: dict[str, Any], subject: Subject) -> None:
    layers, lines = shown_layers(subject.lowered), data["lines"]
    before: dict[str, list[str]] = {}
    for told, snapshot in zip(data["plans"][0]["passes"], subject.snapshots, strict=True):
        assert told["name"] == snapshot.name
        for name, function in snapshot.module.functions.items():
            rows = [(mark, lines[i]) for mark, i in told["sections"][name]]
            text = print_function(only_layers(function, layers)).splitlines()
            assert [line for mark, line in rows if mark != "-"] == text
            old = before.get(name, text)
            kept = Counter(_bare(line) for mark, line in rows if mark != "+")
            assert kept == Counter(map(_bare, old))
            before[name] = text
        changed = Counter(mark for rows in told["sections"].values() for mark, _ in rows if mark != " ")
        assert told["lines"] == dict(changed)


def _bare(line: str) -> str:
    return re.sub(r" in arena\+\d+| scratch arena\+\d+:\d+| arena \d+(?= \{$)", "", line).strip()


def test_layers_that_differ_are_all_shown(subject: Subject) -> None:
    assert shown_layers(subject.lowered) == {0, 1}  # no window, and a window: the third is like the second


def test_marks() -> None:
    before = ["a = x", "b = y a", "c = z b", "gone = q"]
    after = ["kernel k {", "  a = x", "  b = y a in arena+64", "}", "new = r", "c = z b"]
    assert changes(before, after) == [
        ("+", "kernel k {"),
        (">", "  a = x"),
        (">", "  b = y a in arena+64"),
        ("+", "}"),
        ("+", "new = r"),
        (" ", "c = z b"),
        ("-", "gone = q"),
    ]
    assert changes(["a = x", "b = y"], ["b = y", "a = x"]) == [("~", "b = y"), (" ", "a = x")]
    assert changes(["a = x : f32[1]"], ["a = x : f32[1] in arena+0"]) == [("@", "a = x : f32[1] in arena+0")]


@pytest.mark.parametrize("target", ["cpu", "numpy", "cuda"])
def test_every_kernel_is_found_in_the_code(folder: Path, target: str) -> None:
    plan = report_json([report_subject(plan_of(folder, "qk_norm", target=target))])["plans"][0]
    lines = plan["source"]["text"].splitlines()
    for function in plan["module"]["functions"]:
        names = plan["source"]["kernels"][function["name"]]
        assert len(names) == len(function["ops"])
        for name, op in zip(names, function["ops"], strict=True):
            if not name:
                held = [o["op"] for o in op.get("ops", [op])]
                together = target == "cuda" and len(held) == 1  # small ones share a launch with the one before
                assert together or held[0] in ("reshape", "split")
                continue
            first, end = plan["source"]["places"][name]
            text = "\n".join(lines[first:end])
            assert re.search(rf"\b{name}\(", text)
            held = [o["op"] for o in op.get("ops", [op])]
            shared = {"take_rows"} if target == "cuda" else set()  # which row comes with the launch
            assert all(f" {o} " in text for o in held if o not in shared)  # the comment has the operations
            assert text.count("\nvoid ") + text.count("\ndef ") <= 1
            if target == "cuda":
                launch = plan["source"]["launches"][function["name"]][names.index(name)]
                assert re.fullmatch(r"(?:\w+<<<\d+ x (?:\d+|chunks), \d+, \d+>>>(?:, |$))+", launch)


def test_memory_is_the_arenas(data: dict[str, Any]) -> None:
    for name, memory in data["plans"][0]["memory"].items():
        alive = Counter[int]()
        for s in memory["stretches"]:
            assert 0 <= s["offset"] <= s["offset"] + s["bytes"] <= memory["arena"]
            for step in range(s["first"], s["last"] + 1):
                alive[step] += s["bytes"]
        at_peak = sum(memory["stretches"][i]["bytes"] for i in memory["peak"]["stretches"])
        assert at_peak == memory["peak"]["bytes"] <= memory["arena"], name
        assert max(alive.values()) >= memory["peak"]["bytes"]


# Findings


def findings_of(text: str, tokens: int = 0) -> dict[str, dict[str, Any]]:
    module, _ = run_passes(parse_module(text, "x"), lowering(NUMPY))
    source = Source("", "", {})
    snapshot = Snapshot("traced", "traced", module, {}, 0.0)
    (plan,) = report_json([Subject("x", "numpy", [snapshot], source, tokens=tokens)])["plans"]
    return {f["kind"]: f for f in plan["findings"]}


LONE = """
weight @w : f32[64,64]
func @decode(%x: f32[1,64], %y: f32[1,64]) {
  %h = linear %x, @w : f32[1,64]
  %s = silu %y : f32[1,64]
  %c = cast %s {dtype="bf16"} : bf16[1,64]
  %d = cast %c {dtype="f32"} : f32[1,64]
  %a = add %d, %y : f32[1,64]
  %z = mul %a, %h : f32[1,64]
  return %z
}
"""


def test_findings() -> None:
    found = findings_of(LONE, tokens=60)
    assert found["unfused"]["level"] == "warning"
    assert found["unfused"]["function"] == "decode"
    assert "bf16 and back" in found["cancelling casts"]["what"]
    assert found["tiny kernels"]["operations"]
    assert "4 of 64 rows of logits" in found["padding"]["what"]
    kept = findings_of(LONE.replace('%c {dtype="f32"} : f32', '%s {dtype="f32"} : f32'), tokens=64)
    assert {"cancelling casts", "padding"} & kept.keys() == set()  # the second cast is of another value now


def test_a_tensor_stored_twice_is_found() -> None:
    text = """
weight @a : f32[8,8] from "one"
weight @b : f32[8,8] from "one"
func @decode(%x: f32[1,8]) {
  %h = linear %x, @a : f32[1,8]
  %y = linear %h, @b : f32[1,8]
  return %y
}
"""
    assert findings_of(text)["stored twice"]["bytes"] == 256


# Two plans, other passes


def test_two_plans(folder: Path) -> None:
    first, second = (plan_of(folder, "plain", **o) for o in ({}, {"quantize": "int8", "context": 32}))
    data = report_json([report_subject(first), report_subject(second)])
    found = data["differences"]
    figures = {f["what"]: (f["first"], f["second"]) for f in found["figures"]}
    assert figures["context"] == (64, 32)
    assert figures["weights"][1] < figures["weights"][0]
    assert any(o["name"].startswith("quantize") for o in found["options"])
    assert any("dequantize" in data["lines"][i] for mark, i in found["sections"]["decode"] if mark == "+")
    assert {w["name"] for w in found["weights"] if w["first"] is None}
    same = report_json([report_subject(first), report_subject(first)])["differences"]
    assert same["weights"] == same["options"] == []
    assert {mark for rows in same["sections"].values() for mark, _ in rows} == {" "}


def test_other_passes_are_told(folder: Path) -> None:
    plan = plan_of(folder, "plain")
    without = tuple(p for p in portable() if p.name != "merge-linears")
    subject = report_subject(plan, passes=(*without, Pass("nothing", lambda module: module)))
    told = report_json([subject])["plans"][0]
    assert "nothing" in [p["name"] for p in told["passes"]]
    assert "merge-linears" not in [p["name"] for p in told["passes"]]
    assert "other passes" in told["notes"][0]


def test_packed_data_is_smaller_and_comes_back(data: dict[str, Any]) -> None:
    assert unpacked(packed(data)) == data
    texts = [json.dumps(x, separators=(",", ":")) for x in (packed(data), data)]
    assert len(texts[0]) < 0.75 * len(texts[1])  # a third and less where there are many layers
    for odd in ([True, 1, 1.0, [True], [1], [1.0]], {}, [], [[[]], [[]]], {"a": {"a": [-1, -2]}}, None, "x"):
        assert json.dumps(unpacked(packed(odd))) == json.dumps(odd)


def test_what_kernels_of_a_gpu_move_and_take(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(kernels: Any, archs: Any) -> dict[tuple[str, str], Cubin]:
        log = "ptxas info : Used 40 registers, 512 bytes smem; 12 bytes spill stores, 4 bytes spill loads"
        return {(k.name, a): Cubin(k.name, a, b"", log) for k in kernels for a in archs}

    monkeypatch.setattr("graphllm.compiler.nvrtc.build.built", built)
    plan = plan_of(folder, "mqa", target="cuda")
    source = report_json([report_subject(plan, arch="sm_90")])["plans"][0]["source"]
    assert source["arch"] == "sm_90"
    assert source["resources"].keys() >= {k for names in source["kernels"].values() for k in names if k}
    assert {(r["registers"], r["spilled"]) for r in source["resources"].values()} == {(40, 16)}
    assert all(r["shared"] >= 512 and r["threads"] % 32 == 0 < r["resident"] for r in source["resources"].values())
    module = report_subject(plan).lowered
    for function, moved in source["moved"].items():
        assert len(moved) == len(module.functions[function].ops)
        stream = generate(module).streams[function]
        whole = step_moved(stream, module.functions[function], 0)
        assert (sum(m[0] for m in moved if m), sum(m[1] for m in moved if m)) == (whole.moved, whole.floor)
    assert report_json([report_subject(plan)])["plans"][0]["source"]["resources"] == {}


def test_page_is_the_same_for_the_same_data(data: dict[str, Any]) -> None:
    assert report_page(data) == report_page(data)
