"""The report in a real browser: what is drawn, clicked and typed, in light and dark, wide and narrow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphllm.api.report import report_html, report_subject
from graphllm.ir.printer import print_function
from graphllm.view.report.data import report_json
from graphllm.view.report.page import report_page
from graphllm.view.report.subject import Rates, Subject
from tests.browser import Browser, find_browser
from tests.report_plans import EVIL, evil_plan, plan_of, profile_of

VIEWS = ("overview", "graph", "passes", "memory", "weights", "kernels", "ir", "source", "findings", "timeline")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    find_browser()
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def browser(folder: Path) -> Iterator[Browser]:
    with Browser(folder / "browser") as found:
        yield found


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    plan = plan_of(folder, "mqa", quantize="int8", target="cpu", measure=True)  # three equal layers
    subject = report_subject(plan, rates=Rates(2e9, 0.0, "as given"))
    return report_subject(plan, rates=Rates(2e9, 0.0, "as given"), profile=profile_of(subject))


@pytest.fixture(scope="module")
def data(subject: Subject) -> dict[str, Any]:
    return report_json([subject])


@pytest.fixture(scope="module")
def page(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "report.html"
    path.write_text(report_page(data))
    return path


@pytest.fixture(autouse=True)
def sound(browser: Browser) -> Iterator[None]:
    """Whatever a test does, no script fails, the policy refuses nothing, and nothing is fetched."""
    browser.complaints.clear()
    browser.requests.clear()
    yield
    assert browser.complaints == []
    assert [r for r in browser.requests if not r.startswith(("file:", "data:", "about:"))] == []


def shown(browser: Browser) -> str:
    return browser.run("location.hash.slice(1).split('/')[0] || 'overview'")


def test_every_view_shows_something(browser: Browser, page: Path) -> None:
    browser.open(page)
    for i, view in enumerate(VIEWS):
        if i < 9:
            browser.press(str(i + 1))
        else:
            browser.click(f"#tabs button:nth-child({i + 1})")
        assert shown(browser) == view
        assert browser.run("document.querySelector('#tabs [aria-selected=true]').textContent").lower().startswith(view)
        text = browser.run("document.getElementById('panel').textContent")
        assert len(text) > 100, view
        for wrong in ("[object", "undefined", "NaN", "null"):
            assert wrong not in text.replace("nullptr", ""), (view, wrong)


def test_text_is_the_printers(browser: Browser, page: Path, subject: Subject) -> None:
    for name, function in subject.lowered.functions.items():
        browser.open(page, f"#ir/0/{name}")
        rows = browser.run(
            "[...document.querySelectorAll('#panel .row')].map(r => [...r.childNodes].slice(1).map(n => n.textContent)"
            ".join(''))"
        )
        assert "\n".join(rows) + "\n" == print_function(function)


def test_from_kernel_to_code_text_and_memory(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    plan = data["plans"][0]
    (decode,) = (f for f in plan["module"]["functions"] if f["name"] == "decode")
    at = next(i for i, op in enumerate(decode["ops"]) if op["kind"] == "kernel" and len(op["ops"]) > 3)
    name = plan["source"]["kernels"]["decode"][at]
    browser.open(page, "#graph/0/decode")
    browser.click(f'[data-kernel="{at}"] > .box')
    details = browser.text("#details")
    assert f"kernel {at}" in details
    assert name in details
    assert decode["ops"][at]["ops"][0]["results"][0]["name"] in details
    browser.run("[...document.querySelectorAll('#details .link')].find(l => l.textContent === 'source').click()")
    first, end = plan["source"]["places"][name]
    lines = browser.run("[...document.querySelectorAll('#panel .row.chosen')].map(r => Number(r.dataset.line))")
    assert lines == list(range(first + 1, end + 1))
    browser.run("[...document.querySelectorAll('#details .link')].find(l => l.textContent === 'memory').click()")
    assert shown(browser) == "memory"
    made = set(decode["ops"][at]["results"])
    chosen = browser.run("[...document.querySelectorAll('.stretch.chosen')].map(r => r.dataset.name)")
    assert set(chosen) & made == {s["name"] for s in plan["memory"]["decode"]["stretches"]} & made
    browser.run("history.back()")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert shown(browser) == "source"


def test_layers_fold_and_kernels_open(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page, "#graph/0/decode")
    count = "document.querySelectorAll('[data-kernel]').length"
    structure = data["plans"][0]["structure"]["decode"]
    drawn = sum(len(segment["units"][0]) for segment in structure["segments"])
    every = sum(len(unit) for segment in structure["segments"] for unit in segment["units"])
    assert browser.run(count) == drawn < every
    browser.press("l")
    assert browser.run(count) == every
    browser.press("e")
    operations = browser.run("document.querySelectorAll('[data-op]').length")
    (decode,) = (f for f in data["plans"][0]["module"]["functions"] if f["name"] == "decode")
    assert operations == decode["steps"]
    browser.press("l", "e")
    assert browser.run(count) == drawn
    before = browser.run("document.querySelector('#panel svg').getBoundingClientRect().width")
    browser.press("+")
    assert browser.run("document.querySelector('#panel svg').getBoundingClientRect().width") > before


def test_search(browser: Browser, page: Path) -> None:
    browser.open(page, "#graph/0/decode")
    browser.press("/")
    browser.call("Input.insertText", text="rope l1.q")
    assert browser.run("document.querySelectorAll('#found li').length") >= 1
    browser.press("Enter")
    assert "rope" in browser.text("#details h2")
    assert "%l1.q" in browser.text("#details")
    browser.press("Escape")
    assert "Nothing chosen" in browser.text("#details")


def test_slider_over_the_passes(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    passes = data["plans"][0]["passes"]
    browser.open(page, "#passes/0/decode/0")
    kinds = {"-": "removed", "+": "added", ">": "fused", "~": "moved", "@": "placed"}
    glyphs = {"removed": "\u2212", "added": "+", "fused": "\u21e5", "moved": "\u2195", "placed": "\u25a3"}
    for number, told in enumerate(passes):
        assert browser.run("document.getElementById('slider').value") == str(number)
        assert browser.text(".passes [aria-current=true]").split("\n")[0] == told["name"]
        rows = browser.run(
            "[...document.querySelectorAll('.diff .row')].map(r => [r.className, r.innerText.trim()[0]])"
        )
        marks = Counter(kinds[mark] for mark, _ in told["sections"]["decode"] if mark != " ")
        assert Counter(c.removeprefix("row ") for c, _ in rows if c.split()[-1] in glyphs) == marks
        assert all(
            glyph == glyphs[c.split()[-1]] for c, glyph in rows if c.split()[-1] in glyphs
        )  # told without colour
        browser.press("ArrowRight")
    browser.press("[")
    assert browser.run("document.getElementById('slider').value") == str(len(passes) - 2)


def test_timeline(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page, "#timeline/0/prefill_8")
    assert browser.run("document.querySelectorAll('.span').length") == len(data["plans"][0]["profile"]["spans"])
    browser.run("document.querySelector('#panel tbody .link').click()")  # the slowest comes first
    slowest = max(data["plans"][0]["profile"]["kernels"], key=lambda k: k["ns"])
    assert f"kernel {slowest['index']}" in browser.text("#details h2")
    assert browser.run("document.querySelectorAll('.span.chosen').length") == 2


def test_weights_sort_and_filter(browser: Browser, page: Path, data: dict[str, Any]) -> None:
    browser.open(page, "#weights/0/decode")
    names = "[...document.querySelectorAll('#panel tbody tr td:first-child')].map(c => c.textContent)"
    weights = data["plans"][0]["weights"]
    worst = max(weights, key=lambda w: w.get("error", 0))
    assert browser.run(names)[0] == f"@{worst['name']}"
    browser.run("[...document.querySelectorAll('#panel th')].find(h => h.textContent === 'bytes').click()")
    assert browser.run(names)[0] == "@" + max(weights, key=lambda w: w["bytes"])["name"]
    browser.click("#panel input[type=search]")
    browser.call("Input.insertText", text="l2. down")
    assert browser.run(names)
    assert all("l2." in name and "down" in name for name in browser.run(names))


def test_light_dark_narrow(browser: Browser, page: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    try:
        browser.media(prefers_color_scheme="dark")
        browser.open(page, "#graph/0/decode/0/2")
        dark = browser.run(colour)
        browser.media(prefers_color_scheme="light")
        light = browser.run(colour)
        assert sum(map(int, dark[4:-1].split(","))) < 150 < 600 < sum(map(int, light[4:-1].split(",")))
        browser.press("t", "t")
        assert browser.run(colour) == dark  # asked for, whatever the system says
        browser.size(420, 800)
        for view in VIEWS:
            browser.open(page, f"#{view}/0/decode/8/2")
            assert browser.run("document.documentElement.scrollWidth") <= 420, view
    finally:
        browser.size(1400, 900)


def test_two_plans(browser: Browser, folder: Path, subject: Subject) -> None:
    path = folder / "two.html"
    other = report_subject(plan_of(folder, "plain", target="cpu"))
    path.write_text(report_html([subject, other]))
    browser.open(path, "#differences/0/decode")
    text = browser.text("#panel")
    assert "against" in text
    assert "layers" in text
    browser.run("document.getElementById('plan').value = '1'")
    browser.run("document.getElementById('plan').dispatchEvent(new Event('change'))")
    browser.press("1")
    assert other.name in browser.text("#title")


def test_nothing_of_a_checkpoint_runs(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "evil.html"
    path.write_text(report_html([report_subject(evil_plan(tmp_path))]))
    for view in VIEWS:
        browser.open(path, f"#{view}/0/decode/0/1")
        assert browser.run("window.hacked === undefined && document.querySelectorAll('img').length === 0")
    browser.open(path, "#weights/0/decode")
    assert EVIL[:30] in browser.run("document.getElementById('panel').textContent")


def test_an_address_that_nobody_made(browser: Browser, page: Path) -> None:
    for place in (
        "#graph/99/nothing/99/99/99/%25x",
        "#%E0%A4%A",
        "#passes/0/decode/-1/__proto__",
        "#<script>",
        "#ir//////@",
    ):
        browser.open(page, place)
        assert browser.run("document.getElementById('panel').textContent.length") > 50


def test_size_of_the_page_without_data() -> None:
    """What is ours leaves nearly all of the 2 MB to the plan."""
    assert len(report_page({"plans": []})) < 120_000


def test_photograph(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page, "#graph/0/decode")
    browser.photograph(tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads(browser.run("JSON.stringify(document.documentElement.dataset)"))["ready"] == "yes"
