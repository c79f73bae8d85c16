"""The page of ``graphllm report`` as text: what a checkpoint says stays data."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from graphllm.api.report import report_html, report_subject
from graphllm.view.report.packed import unpacked
from graphllm.view.report.page import embedded
from tests.report_plans import EVIL, evil_plan


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
