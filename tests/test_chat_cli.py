"""``graphllm chat`` in a pipe: lines in, answers out, commands between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import graphllm
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors
from tests.small_tokenizer import write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("chatcli")
    write_huggingface(base / "hf", ZOO["odd_sizes"], random_tensors(ZOO["odd_sizes"], np.random.default_rng(7)))
    write_tokenizer(base / "hf" / "tokenizer.bin")
    (base / "hf" / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "</s>"}))
    graphllm.compile(base / "hf", base / "m.gllm", context=256, target="numpy")
    return base


def command(folder: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRAPHLLM_CACHE": str(folder / "cache"), "TERM": "xterm"}
    environment |= {"PROMPT_TOOLKIT_NO_CPR": "1"}
    return [sys.executable, "-m", "graphllm", "chat", "m.gllm", "--device", "numpy", *words], environment


def piped(folder: Path, typed: str, *words: str) -> tuple[int, str, str]:
    line, environment = command(folder, *words)
    done = subprocess.run(line, cwd=folder, env=environment, input=typed.encode(), capture_output=True, timeout=120)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_pipe_is_a_dialogue(folder: Path) -> None:
    typed = 'one\n\n/tokens\n//two\n"""three\nlines"""\n/save s.json\n/undo\n/retry\n/drop 1\n/speed\n/exit\nnever\n'
    code, out, err = piped(folder, typed, "-n", "4", "-t", "0", "--system", "be kind")
    assert code == 0, err
    saved = json.loads((folder / "s.json").read_text("utf-8"))["messages"]
    assert [m["content"] for m in saved[0::2]] != []
    assert [m["content"] for m in saved if m["role"] != "assistant"] == ["be kind", "one", "/two", "three\nlines"]
    chat = graphllm.load(folder / "m.gllm", device="numpy").chat(system="be kind")
    for said in ("one", "/two", "three\nlines"):
        assert chat.ask(said, max_tokens=4)
    assert chat.messages == saved
    for part in (chat.messages[2]["content"], "3 messages", "of 256 positions"):
        assert part in out
    assert "saved: s.json" in err
    code, out, err = piped(folder, "/tokens\n", "--load", "s.json")
    assert (code, "7 messages" in out) == (0, True), err


def test_bytes_that_are_no_text_and_a_template_file(folder: Path) -> None:
    line, environment = command(folder)
    done = subprocess.run(line, cwd=folder, env=environment, input=b"\xff\n", capture_output=True, timeout=120)
    assert (done.returncode, b"not UTF-8" in done.stderr) == (2, True)
    (folder / "t.jinja").write_text("{{ messages[-1].content }}{{ x.y }}")
    code, out, err = piped(folder, "hello\n", "--template", "t.jinja", "--set", 'x={"y": "z"}', "-n", "3", "-t", "0")
    assert (code, out.endswith("\n")) == (0, True), err
