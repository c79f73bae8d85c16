"""The command line for tests, in a process of its own or in ours: its output, exit code and one-line complaint."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from graphllm.cli import main
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
    """A command in a process of its own."""
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


def called(base: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """A command in this process, which takes a tenth of the time: for what it says, not for what the shell hands it."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        for name, value in environment(base).items():
            patch.setenv(name, value)
        for name, stream in (("stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8")), ("stdout", out), ("stderr", err)):
            patch.setattr(sys, name, stream)
        try:
            code = main(arguments)
        except SystemExit as ended:  # argparse's own way out
            code = int(str(ended.code))
    texts: list[str] = []
    for stream in (out, err):
        stream.seek(0)
        texts.append(stream.read())
    return subprocess.CompletedProcess(arguments, code, *texts)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on stderr with these words, nothing on stdout."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
