"""Makes the pictures of these pages with the tool itself: python docs/images/make.py (it needs Chromium).

``make.py terminals`` makes those of commands that print, or of some by name; it wants a quiet machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.browser import Browser  # noqa: E402

PLACE = {**os.environ, "PYTHONPATH": str(ROOT)}
TERMINALS = {  # name: what is typed; {folder} holds f32.gllm, int8.gllm and book.txt
    "check": "graphllm check demo --memory 8MiB",
    "doctor": "graphllm doctor",
    "eval": "graphllm eval {folder}int8.gllm --text {folder}book.txt --against {folder}f32.gllm",
    "bench": "graphllm bench {folder}f32.gllm --against {folder}int8.gllm -p 128 -n 128 -d 0,256 -r 7",
    "emit": "graphllm emit {folder}f32.gllm -o {folder}story && make -s -C {folder}story && "
    '{folder}story/generate -p "Once upon a time" -n 60',
}
PICTURES = {  # name: (page, place in it)
    "report-graph": ("demo.html", "#graph/0/decode/9/5/3/"),
    "report-passes": ("demo.html", "#passes/0/decode/9///"),
    "report-memory": ("demo.html", "#memory/0/prefill_32/0/4//"),
    "adding-a-pass": ("pass.html", "#passes/1/decode/5///"),
}


def terminal(name: str, line: str, folder: Path) -> None:
    """What a command prints, as a picture of a terminal that asks nobody for fonts."""
    from rich.console import Console
    from rich.text import Text

    typed = line.replace("{folder}", "")
    shell = line.replace("{folder}", f"{folder}/").replace("graphllm ", f"{sys.executable} -m graphllm ")
    done = subprocess.run(["bash", "-c", shell], check=False, cwd=folder, env=PLACE, capture_output=True, text=True)
    said = done.stdout.replace(f"{folder}/", "").replace(str(Path.home()), "~")
    rows = [f"$ {typed}", *said.rstrip().split("\n")]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=min(112, max(60, *map(len, rows))), file=nowhere)
        console.print(Text("\n".join(rows)))
    svg = console.export_svg(title="", unique_id=name)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    Path(__file__).with_name(f"{name}.svg").write_text(svg, encoding="utf-8")


def terminals(folder: Path, names: list[str]) -> None:
    """Commands' pictures, of the demo model and a text that it told."""

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "graphllm", *words]
        return subprocess.run(command, check=True, cwd=folder, env=PLACE, capture_output=True, text=True).stdout

    said("compile", "demo", "-q", "-o", "f32.gllm")
    said("compile", "demo", "-q", "-o", "int8.gllm", "--quantize", "int8")
    story = said("run", "f32.gllm", "-p", "Once upon a time", "-n", "480", "--ignore-eos", "-t", "1", "--seed", "1")
    (folder / "book.txt").write_text(story, encoding="utf-8")
    for name in names or TERMINALS:
        terminal(name, TERMINALS[name], folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["terminals"]:
        with tempfile.TemporaryDirectory() as name:
            terminals(Path(name), sys.argv[2:])
        sys.exit()
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
