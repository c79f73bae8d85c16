"""Every example runs as its first lines say, on a model made here, and does what it claims."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import graphllm
from examples.a_pass import narrow_classifier
from graphllm.ir import interpret, parse_module, verify
from tests.checkpoint_writers import write_huggingface, write_llama2c
from tests.model_zoo import random_tensors
from tests.small_plans import SMALL
from tests.small_tokenizer import write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
CONFIG = replace(SMALL, vocab=300, context=128, eos_ids=(), layers=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "model"
    write_huggingface(folder, CONFIG, random_tensors(CONFIG, 4))
    write_tokenizer(folder / "tokenizer.bin")
    return folder


def run(name: str, *arguments: str | Path, code: int = 0) -> str:
    """What an example prints."""
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, env=environment, cwd=ROOT.parent, timeout=60)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


def test_compile_and_generate(tmp_path: Path, checkpoint: Path) -> None:
    said = run("compile_and_generate.py", checkpoint, "the rain", "-o", tmp_path / "p.gllm")
    model = graphllm.load(tmp_path / "p.gllm")
    answer = model.generate("the rain", max_tokens=100)
    assert f"the rain{answer.text}\n" in said
    assert f"{answer.prompt_tokens} tokens read, 100 written, ended by: length" in said


def test_compile_and_generate_from_a_flat_file(tmp_path: Path) -> None:
    config = replace(CONFIG, rope_pairing="interleaved")
    write_llama2c(tmp_path / "model.bin", config, random_tensors(config, 4))
    write_tokenizer(tmp_path / "other.bin")
    out = tmp_path / "p.gllm"
    said = run("compile_and_generate.py", tmp_path / "model.bin", "a", "--tokenizer", tmp_path / "other.bin", "-o", out)
    assert "ended by:" in said
    said = run("compile_and_generate.py", tmp_path / "model.bin", "a", "-o", out, code=1)
    assert said.splitlines()[-1] == "prompt: this plan has no tokenizer; give token ids, or compile with --tokenizer"


def test_stream(checkpoint: Path) -> None:
    said = run("stream.py", checkpoint, "the rain")
    sampled = {"temperature": 0.8, "top_p": 0.95, "seed": 42}
    answer = graphllm.load(checkpoint).generate("the rain", max_tokens=100, stop=["\n\n"], **sampled)
    assert said.replace("\r\n", "\n").startswith(f"the rain{answer.text}\n")
    assert re.search(r"\d+ tokens, \d+ a second, ended by: (length|stop)", said)


def test_logits(checkpoint: Path) -> None:
    said = run("logits.py", checkpoint, "the rain in so")
    ids = graphllm.load(checkpoint).encode("the rain in so")
    assert said.count(" nats ") == len(ids) - 1
    perplexity = re.search(r"perplexity ([\d.]+) over (\d+) tokens", said)
    assert perplexity is not None
    assert float(perplexity[1]) > 1
    assert int(perplexity[2]) == len(ids) - 1


def test_look_at_ir(checkpoint: Path) -> None:
    said = run("look_at_ir.py", checkpoint)
    for part in ("traced: ", "optimised: ", "lowered: ", "plan-memory", "func @decode", "def ", "KV cache"):
        assert part in said


def test_batch(checkpoint: Path) -> None:
    prompts = ["the rain", "a ship", "no"]
    said = run("batch.py", checkpoint, *prompts)
    model = graphllm.load(checkpoint)
    for prompt in prompts:
        assert prompt + model.generate(prompt, max_tokens=50).text in said


def test_a_pass(tmp_path: Path, checkpoint: Path) -> None:
    said = run("a_pass.py", checkpoint, "-o", tmp_path / "r.html")
    (before, _), (after, _) = re.findall(r"(\d+) bytes a token, (\d+) bytes of weights", said)
    assert int(before) - int(after) == CONFIG.vocab * CONFIG.dim * 2  # half of what f32 took
    assert "narrow-classifier" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_pass_rounds_the_classifier_and_nothing_else() -> None:
    module = parse_module(
        """weight @a : f32[6,5]
weight @w : f32[7,6]
func @decode(%x: f32[1,5]) {
  %h = linear %x, @a : f32[1,6]
  %y = linear %h, @w : f32[1,7]
  return %y
}
"""
    )
    new = narrow_classifier(module)
    verify(new)
    rng = np.random.default_rng(8)
    a, w, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 5), (7, 6), (1, 5)))
    rounded = w.astype(ml_dtypes.bfloat16)
    arrays = {"a": a, "w.bf16": rounded}
    (y,), _ = interpret(new.functions["decode"], {"x": x}, lambda weight: arrays[weight.name], {})
    assert np.abs(y - x @ a.T @ rounded.astype(np.float32).T).max() < 1e-5


def test_none_is_left_out() -> None:
    assert EXAMPLES == ["a_pass.py", "batch.py", "compile_and_generate.py", "logits.py", "look_at_ir.py", "stream.py"]
    assert all(f"test_{Path(name).stem}" in globals() for name in EXAMPLES)
