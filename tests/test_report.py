"""The data of ``graphllm report``: true to the plan, described by its schema, safe to stand in a page."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import graphllm
from graphllm.api.report import report_html, report_subject
from graphllm.cli import main
from graphllm.cli.report import rate
from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.launches.bytes_moved import step_moved
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.errors import GraphLLMError
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_function, print_module
from graphllm.passes.manager import Pass, run_passes
from graphllm.passes.pipeline import lowering, portable
from graphllm.view.profile_data import KernelTime, Profile, Span
from graphllm.view.report.data import report_json
from graphllm.view.report.packed import packed, unpacked
from graphllm.view.report.page import embedded, report_page
from graphllm.view.report.passes import changes, only_layers, shown_layers
from graphllm.view.report.subject import Rates, Snapshot, Source, Subject
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors
from tests.small_plans import edited, small_plan

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&lt;\u2028'\"`${1}"


def plan_of(folder: Path, name: str, **options: Any) -> Path:
    """A model of the zoo as a plan."""
    if not (folder / name).exists():
        write_huggingface(folder / name, ZOO[name], random_tensors(ZOO[name], 1))
    out = folder / f"{name}-{len(list(folder.glob('*.gllm')))}.gllm"
    graphllm.compile(folder / name, out, **options).file.close()
    return out


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
            assert text.count("static void ") + text.count("\ndef ") <= 1
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


# The page


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._in = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._in = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.text[self._in] = self.text.get(self._in, "") + data


def evil_plan(folder: Path) -> Path:
    """A plan whose tensors say that they were called something hostile."""
    plan = small_plan(folder)
    quoted = json.dumps(EVIL)[1:-1].replace("\\", "\\\\")
    return edited(
        plan, folder / "@STYLE@.gllm", lambda text: re.sub(r'from "[^"]*"', f'from "{quoted}"', text), section="ir"
    )


def test_strings_of_a_checkpoint_stay_data(tmp_path: Path) -> None:
    subject = report_subject(evil_plan(tmp_path))
    assert any(w.source == EVIL for w in subject.lowered.weights.values())
    page = report_html([subject])
    elements = _Elements()
    elements.feed(page)
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 2
    assert "img" not in tags
    told = unpacked(json.loads(elements.text["data"]))
    assert EVIL in {t["source"] for w in told["plans"][0]["weights"] for t in w["from"]}
    assert "@STYLE@" in elements.text["title"]  # a name that looks like a place of ours is a name
    policy = next(a["content"] for tag, a in elements.found if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    outside = {a for _, attributes in elements.found for name, a in attributes.items() if name in ("src", "href")}
    assert outside == set()


def test_embedded_json_cannot_leave_its_element() -> None:
    text = embedded({"a": [EVIL, "<!--", "]]>", "\u2029"]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": [EVIL, "<!--", "]]>", "\u2029"]}
    with pytest.raises(ValueError, match="JSON compliant"):
        embedded(float("nan"))


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


# The command


def profile_of(subject: Subject) -> Profile:
    """A made-up profile of a step: every kernel takes its number of microseconds."""
    ops = subject.lowered.functions["decode"].ops
    kernels, spans, at = list[KernelTime](), list[Span](), 0
    for i, op in enumerate(ops):
        took = 1000 * (i + 1)
        names = tuple(o.name for o in (op.body.ops if op.body is not None else (op,)))
        kernels.append(KernelTime(i, op.results[0].name, op.template or op.name, -1, names, at, took, 10, 64, 128))
        spans += [Span(i, thread, at, took - thread) for thread in range(2)]
        at += took
    return Profile(subject.target, 2, "decode", 1, 3, 5, at + 500, 1e9, 0.0, tuple(kernels), tuple(spans))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(plan), "--bandwidth", "10GB/s"]) == 0
    assert "report.html" in capsys.readouterr().err
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    (tmp_path / "p.json").write_text(json.dumps(profile_of(report_subject(plan)).as_json()))
    assert main(["report", str(plan), str(plan), "--json", "--profile", "p.json", "--bandwidth", "none"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["plans"][0]["profile"]["device"] == "numpy"
    assert told["plans"][1]["profile"] is None
    assert told["differences"]["weights"] == []
    assert main(["report", str(tmp_path / "model"), "--json", "--bandwidth", "none", "--target", "numpy"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "compiled in memory" in told["plans"][0]["notes"][0]
    assert main(["report", str(plan), "-o", "-", "--bandwidth", "none"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["small.gllm", "-o", "small.gllm"], "the model itself"),
        (["small.gllm", "other.gllm"], "no such file"),
        (["cut.gllm"], "cut short"),
        (["small.gllm", "--quantize", "int8"], "are for checkpoints"),
        (["small.gllm", "--bandwidth", "fast"], "expected a rate"),
        (["small.gllm", "--profile", "nothing.json"], "cannot be read"),
        (["small.gllm", "--profile", "bad.json"], "not JSON"),
        (["small.gllm", "--profile", "other.json"], "expected a profile of version 1"),
        (["small.gllm", "--profile", "larger.json"], "profile this plan"),
        (["small.gllm", "--profile", "device.json"], "of @decode on cpu, which is not what this plan runs on numpy"),
        (["small.gllm", "--profile", "ops.json"], "profile this plan"),
        (["small.gllm", "--resources"], "is lowered for numpy; expected the target cuda"),
        (["small.gllm", "--resources", "sm_1"], "'sm_1'; expected some of sm_75"),
        (["small.gllm", "-o", "no/such/folder.html"], "no such folder"),
    ],
)
def test_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = small_plan(tmp_path)
    Path("cut.gllm").write_bytes(plan.read_bytes()[:-9])
    Path("bad.json").write_text("{")
    Path("other.json").write_text("{}")
    if "--profile" in arguments:
        profile = profile_of(report_subject(plan)).as_json()
        Path("device.json").write_text(json.dumps(profile | {"device": "cpu"}))
        other = [k | {"ops": ["silu"]} for k in profile["kernels"]]
        Path("ops.json").write_text(json.dumps(profile | {"kernels": other}))
        profile["kernels"][-1]["index"] = 999
        Path("larger.json").write_text(json.dumps(profile))
    assert main(["report", *arguments, *([] if "--bandwidth" in arguments else ["--bandwidth", "none"])]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1
    assert not Path("report.html").exists()


def test_rates() -> None:
    assert rate("x", "40GB/s") == 40e9
    assert rate("x", "2Tflop/s") == 2e12
    assert rate("x", "123") == 123
    assert rate("x", "none") == 0
    for text in ("0", "-1GB/s", "1e99", "GB", "nan"):
        with pytest.raises(GraphLLMError, match="expected a rate"):
            rate("x", text)
