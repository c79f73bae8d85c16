"""The same module gives the same text, whatever order Python's hashes take: plans are compared byte for byte."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from graphllm.codegen.numpy.target import NUMPY
from graphllm.ir import parse_module, print_module
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering, portable
from tests.random_ir import random_module

ROOT = Path(__file__).parents[1]


def texts() -> list[str]:
    """Lowered random modules and the lowered golden of a traced model, as text."""
    traced = (ROOT / "tests/golden/ir/traced.ir").read_text(encoding="utf-8")
    modules = [parse_module(traced), *(random_module(seed, most_ops=24) for seed in range(25))]
    return [print_module(run_passes(m, (*portable("bf16"), *lowering(NUMPY)))[0]) for m in modules]


def digest() -> str:
    return hashlib.sha256("".join(texts()).encode()).hexdigest()


def test_passes_give_the_same_text_whatever_the_hash_seed() -> None:
    found = {digest()}
    for seed in ("0", "1", "4711"):
        run = subprocess.run(
            [sys.executable, "-c", "from tests.test_ir_determinism import digest; print(digest())"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(run.stdout.strip())
    assert len(found) == 1


def test_passes_depend_on_the_text_alone() -> None:
    """A module and its own text, parsed, are compiled alike."""
    for seed in range(40):
        module = random_module(seed)
        again = parse_module(print_module(module))
        first, second = (run_passes(m, (*portable(), *lowering(NUMPY)))[0] for m in (module, again))
        assert print_module(first) == print_module(second)
