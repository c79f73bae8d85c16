"""One HTML file with everything in it: our styles and scripts, and the data as JSON.

Nothing is fetched: the page's own policy forbids it, and lets run only the script and styles whose digests it names. So
a string of a checkpoint cannot become code twice over: as data it is escaped, and as code it would not run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any, Final

from graphllm.view.report.packed import packed

FOLDER: Final = Path(__file__).parent
STYLES: Final = ("colours.css", "layout.css", "parts.css")
SCRIPTS: Final = (  # in the order in which they use each other
    "dom.js",
    "format.js",
    "packed.js",
    "model.js",
    "selection.js",
    "zoom.js",
    "overview.js",
    "graph_layout.js",
    "graph.js",
    "details.js",
    "passes.js",
    "memory.js",
    "weights.js",
    "kernels.js",
    "source.js",
    "findings.js",
    "timeline.js",
    "differences.js",
    "main.js",
)


def report_page(data: dict[str, Any]) -> str:
    """The page for data that ``report_json`` made."""
    style = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in STYLES)
    parts = ((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"
    policy = f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; base-uri 'none'"
    names = " and ".join(plan["name"] for plan in data["plans"])
    parts_of_page = {
        "POLICY": policy,
        "TITLE": html.escape(f"{names}: graphllm report"),
        "STYLE": style,
        "SCRIPT": script,
        "DATA": embedded(packed(data)),
    }
    template = (FOLDER / "page.html").read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda mark: parts_of_page[mark[1]], template)  # once: what is put in is not looked at


def embedded(data: object) -> str:
    """JSON that may stand in a script element: no character of it can end the element or begin another."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
