"""The benchmark of the first token: it measures the command, and says where the time goes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.small_plans import small_plan

START = Path(__file__).parent.parent / "benchmarks" / "start.py"


def measured(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(START), *words], capture_output=True, text=True, timeout=300)


def test_all_parts_are_told(tmp_path: Path) -> None:
    done = measured(str(small_plan(tmp_path)), "--tokens", "3", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    first, *parts = done.stdout.splitlines()
    whole = re.fullmatch(r"first token (\d+\.\d\d) s after the process starts", first)
    told = [re.fullmatch(r" +(\w+) +(\d+\.\d\d) s", line) for line in parts]
    assert whole is not None
    assert [part and part[1] for part in told] == ["python", "import", "load", "tokenizer", "prompt"]
    assert 0 < float(whole[1]) < 300
    assert sum(float(part[2]) for part in told if part) > 0


def test_a_command_that_fails_gives_no_figure(tmp_path: Path) -> None:
    done = measured(str(small_plan(tmp_path)), "--tokens", "99", "--rounds", "1")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "failed" in done.stderr
