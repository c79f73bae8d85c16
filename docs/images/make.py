"""Makes the pictures of these pages with the tool itself: python docs/images/make.py (it needs Chromium)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import Browser  # noqa: E402

PICTURES = {  # name: (page, place in it)
    "report-graph": ("demo.html", "#graph/0/decode/9/5/3/"),
    "report-passes": ("demo.html", "#passes/0/decode/9///"),
    "report-memory": ("demo.html", "#memory/0/prefill_32/0/4//"),
    "adding-a-pass": ("pass.html", "#passes/1/decode/5///"),
}

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = ["--quantize", "int8", "--target", "cpu", "--bandwidth", "40GB/s", "-o", str(folder / "demo.html")]
        subprocess.run([sys.executable, "-m", "graphllm", "report", "demo", *made], check=True, cwd=ROOT)
        example = [sys.executable, "examples/a_pass.py", "demo", "-o", str(folder / "pass.html")]
        subprocess.run(example, check=True, cwd=ROOT)
        with Browser(folder / "browser") as browser:
            browser.size(1240, 740)
            browser.media(prefers_color_scheme="light")
            for picture, (page, place) in PICTURES.items():
                browser.open(folder / page, place)
                browser.photograph(Path(__file__).with_name(f"{picture}.png"))
