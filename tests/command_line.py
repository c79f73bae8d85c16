"""The command line as a user meets it: real processes, their output, their exit codes, their one-line complaints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint_writers import random_tensors, write_huggingface
from tests.model_zoo import ZOO

CONFIG = ZOO["llama"] if "llama" in ZOO else next(c for c in ZOO.values() if c.rope_pairing == "half")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small Hugging Face checkpoint `hf` and its plan `plan.gllm`; no tokenizer."""
    base = tmp_path_factory.mktemp("cli")
    write_huggingface(base / "hf", CONFIG, random_tensors(CONFIG, np.random.default_rng(7)))
    done = graphllm(base, "compile", "hf", "-o", "plan.gllm")
    assert done.returncode == 0, done.stderr
    return base


def environment(base: Path) -> dict[str, str]:
    return {**os.environ, "GRAPHLLM_CACHE": str(base / "cache"), "COLUMNS": "120"}


def graphllm(base: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "graphllm", *arguments],
        cwd=base,
        env={**environment(base), "PYTHONPATH": str(Path(__file__).parents[1])},
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on stderr with these words, nothing on stdout."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
