"""The script for the first real GPU runs its whole path on the simulator."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_torch import TorchDecoder
from graphllm.compiler.native.toolchain import compiler_command
from tests.model_zoo import ZOO

ROOT = Path(__file__).resolve().parents[1]


def test_it_runs_to_its_end(tmp_path: Path) -> None:
    if compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    out = tmp_path / "session.json"
    command = [sys.executable, "benchmarks/gpu_session.py", "--device", "cuda-sim", "--tiny", "-o", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    steps = json.loads(out.read_text())["steps"]
    assert not [name for name, found in steps.items() if "error" in found and not found.get("optional")]
    assert steps["whole model"]["greedy"] == "6 of 6 tokens the same"
    assert steps["batches"]["greedy"] == 3
    assert steps["dense peak"]["flop_s"] > 0
    assert steps["speed: tiny bf16"]["decode_tok_s"] > 0
    assert steps["speed: tiny bf16"]["share_of_dense_peak"] > 0
    assert all(us > 0 for us in steps["speed: tiny bf16"]["launch_us"].values())
    assert steps["read bandwidth"]["bytes_a_second"] > 0
    assert "| tiny bf16 |" in done.stdout


def test_the_model_in_pytorch_is_one_model() -> None:
    """A prompt at once and its tokens one by one give the same logits, up to what bf16 rounds."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    decoder = TorchDecoder(ZOO["plain"], context=16, device="cpu")
    prompt, pos = torch.randint(ZOO["plain"].vocab, (9,)), torch.arange(9)
    together = decoder.logits(prompt, pos)
    one_by_one = [decoder.logits(prompt[i : i + 1], pos[i : i + 1]) for i in range(9)]
    assert (one_by_one[-1] - together).abs().max() < 0.05 * together.abs().max()
    assert (one_by_one[-2] - together).abs().max() > 0.05 * together.abs().max()
    assert decoder.decode(compiled=False, steps=2) > 0
    assert decoder.prefill(9, compiled=False, rounds=1) > 0
