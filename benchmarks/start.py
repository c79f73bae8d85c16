"""From the start of a process to its first token: ``graphllm run`` on a plan that has run before.

    python benchmarks/start.py PLAN                  16 token ids; another number with --tokens
    python benchmarks/start.py PLAN --prompt TEXT

The first line is of the command itself: until the first byte of the answer arrives. The others are where that time
goes, in a process of the same imports and calls: import, load (the plan opened, IR verified, the library found, the
device made), tokenizer (which a plan that has one loads for ids, too), prompt. Medians of processes that take turns,
after one that warms caches of files and of libraries; byte code is kept, as it is where a package is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

_PARTS = """
import json, sys, time
marks = [float(sys.argv[1]), time.monotonic()]
plan, text, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
import graphllm.cli.run
from graphllm import api
marks.append(time.monotonic())
model = api.load(plan)
marks.append(time.monotonic())
model.tokenizer  # for ids, too: it knows what ends a text
prompt = model.encode(text) if text else list(range(1, count + 1))
marks.append(time.monotonic())
next(iter(model.stream(prompt, max_tokens=1, ignore_eos=True).tokens()))
marks.append(time.monotonic())
print(json.dumps([b - a for a, b in zip(marks, marks[1:])]))
"""
PARTS = ("python", "import", "load", "tokenizer", "prompt")


def first_byte(plan: Path, text: str, count: int, environment: dict[str, str]) -> float:
    """Seconds until ``graphllm run`` says something."""
    prompt = ["-p", text, "--no-echo"] if text else ["--ids", " ".join(map(str, range(1, count + 1)))]
    command = [sys.executable, "-m", "graphllm", "run", str(plan), *prompt, "-n", "1", "--ignore-eos"]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.read(1)
        taken = time.monotonic() - start
    if process.returncode or not said:
        sys.exit(f"graphllm run {plan}: failed; run it by hand to see why")
    return taken


def parts(plan: Path, text: str, count: int, environment: dict[str, str]) -> list[float]:
    """Seconds of each of PARTS."""
    # CLOCK_MONOTONIC is one for all processes
    command = [sys.executable, "-c", _PARTS, str(time.monotonic()), str(plan), text, str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--prompt", default="", metavar="TEXT")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    a = parser.parse_args()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    asked = a.plan, a.prompt, a.tokens, environment
    first_byte(*asked), parts(*asked)
    rounds = [(first_byte(*asked), parts(*asked)) for _ in range(a.rounds)]
    print(f"first token {statistics.median(whole for whole, _ in rounds):.2f} s after the process starts")
    for name, taken in zip(PARTS, zip(*(each for _, each in rounds), strict=True), strict=True):
        print(f"    {name:10} {statistics.median(taken):.2f} s")


if __name__ == "__main__":
    main()
