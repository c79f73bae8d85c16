"""Every reader under bent bytes, each in a process of its own, side by side: see ``fuzz_readers``.

GRAPHLLM_FUZZ_SECONDS says how long they go on: 1 as a rule, 60 in .ci/run.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz_readers import bent, with_value

ROOT = Path(__file__).resolve().parents[1]
SECONDS = float(os.environ.get("GRAPHLLM_FUZZ_SECONDS", "1"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, with limits of Unix")
def test_whatever_is_read_is_read_or_one_line() -> None:
    command = [sys.executable, "-m", "tests.fuzz_readers", str(SECONDS)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS + 300)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, str] = json.loads(done.stdout)
    # A count and nothing else: what a library prints when it panics is not one line either.
    wrong = {name: text[-3000:] for name, text in said.items() if text.split()[1:] != ["files"]}
    assert not wrong, "\n".join(f"== {name}\n{text}" for name, text in wrong.items())


def test_the_bender_bends() -> None:
    assert bent(b"abcdef", [("byte", 0.0, 255)]) == b"\xffbcdef"
    assert bent(b"abcdef", [("cut", 0.0, 2)]) == b"cdef"
    with pytest.raises(struct.error):
        bent(b"abcdef", [("u64", 0.0, 2**64)])
    places = {with_value(b'{"a": [1, {"b": 2}]}', i, "x") for i in range(4)}
    expected = [{"a": "x"}, {"a": ["x", {"b": 2}]}, {"a": [1, "x"]}, {"a": [1, {"b": "x"}]}]
    assert sorted(places) == sorted(json.dumps(value).encode() for value in expected)
