"""``graphllm chat`` in a pipe, lines in and answers out, and at a terminal, with its keys and questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import graphllm
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors
from tests.small_tokenizer import write_tokenizer
from tests.terminal import Terminal

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("chatcli")
    write_huggingface(base / "hf", ZOO["odd_sizes"], random_tensors(ZOO["odd_sizes"], 7))
    write_tokenizer(base / "hf" / "tokenizer.bin")
    (base / "hf" / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "</s>"}))
    (base / "hf" / "generation_config.json").write_text('{"do_sample": true, "top_k": 5}')
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
    assert "sampling as the model's makers advise: top_k 5" in err
    code, out, err = piped(folder, "/tokens\n", "--load", "s.json")
    assert (code, "7 messages" in out) == (0, True), err


def test_bytes_that_are_no_text_and_a_template_file(folder: Path) -> None:
    line, environment = command(folder)
    done = subprocess.run(line, cwd=folder, env=environment, input=b"\xff\n", capture_output=True, timeout=120)
    assert (done.returncode, b"not UTF-8" in done.stderr) == (2, True)
    (folder / "t.jinja").write_text("{{ messages[-1].content }}{{ x.y }}")
    code, out, err = piped(folder, "hello\n", "--template", "t.jinja", "--set", 'x={"y": "z"}', "-n", "3", "-t", "0")
    assert (code, out.endswith("\n")) == (0, True), err


def terminal(folder: Path, *words: str, seconds: float = 0.0, plain: bool = False) -> Terminal:
    line, environment = command(folder, *words)
    environment |= {"TERM": "dumb", "NO_COLOR": "1"} if plain else {}
    return Terminal(line[3:], folder, environment, seconds)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
def test_keys_of_a_terminal(folder: Path) -> None:
    with terminal(folder, "-t", "0", "-n", "60", seconds=0.05) as t:
        t.wait("Ctrl-D ends\n>")
        t.type("hello\r")
        t.wait("hello\n")
        t.wait("l")  # of the answer
        t.type("\x03")
        t.wait("stopped; what came so far is part of the chat\n>")
        t.type("/tokens\r")
        t.wait("of 256 positions, 2 messages\n>")
        t.type("/sys\t be\x1b\rkind\r")  # Tab, Alt-Enter
        t.wait("/system be\n  kind\n>")
        t.type("/system\r")
        t.wait("\nbe\nkind\n>")
        t.type("\x1b[A\x1b[A\x1b[B\x1b[A\x1b[A\x1b[A\r")  # up and down, over a message of two lines
        t.wait("/tokens\n")
        t.wait("3 messages\n>")
        t.type("half\x03")
        t.wait("Ctrl-D or /exit ends the chat\n>")
        t.type("/nothing\r")
        t.wait("/nothing: no such command")
        t.wait("\n>")
        t.resize(12, 40)
        t.type("a\x7fone\r")
        t.wait("one\n")
        t.type("/tokens\n")  # while it answers
        t.wait("stopped after 60 tokens (-n)\n>")
        t.wait("5 messages\n>")
        t.type("/save keys.json\r")
        t.wait("saved: keys.json\n>")
        t.type("\x04")
        assert t.code() == 0
    saved = json.loads((folder / "keys.json").read_text("utf-8"))["messages"]
    assert [m["content"] for m in saved if m["role"] != "assistant"] == ["be\nkind", "hello", "one"]
    kept = (folder / "cache" / "chat-history").read_text("utf-8")
    assert "+hello\n" in kept
    assert (folder / "cache" / "chat-history").stat().st_mode & 0o077 == 0


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
def test_a_full_context_asks_what_to_forget(folder: Path) -> None:
    with terminal(folder, "-t", "0", "-n", "60", "--no-history", plain=True) as t:
        t.wait(">")
        for said in ("one\r", "two\r"):
            t.type(said)
            t.wait("(-n)\n")
        t.type("three\r")
        t.wait("Forget the oldest exchanges, 1 (")
        t.type("\r")
        t.wait("nothing was forgotten")
        t.type(" and\r")  # behind the message, which is offered again
        t.wait("Forget the oldest")
        t.type("7\r")
        t.wait("nothing was forgotten")
        t.type("\r")
        t.wait("Forget the oldest")
        t.type("1\r")
        t.wait("(-n)\n")
        t.type("/tokens\r")
        t.wait(" 4 messages\n")
        t.type("/drop 9\r")
        t.wait("forgot 2 exchanges")
        t.type('"""many\rlines"""\r')
        t.wait("(-n)\n")
        t.type("/tokens\r")
        t.wait(" 2 messages\n")
        t.type("/exit\r")
        assert t.code() == 0
        assert b"\x1b" not in t.raw.replace(b"\x1b[?12l\x1b[?25h", b"")  # but that the cursor is seen


def test_what_a_model_says_cannot_drive_a_terminal() -> None:
    from graphllm.cli.terminal import harmless

    assert harmless("a\tb\r\nc\x1b]0;x\x07\x9b2J") == "a\tb\nc\ufffd]0;x\ufffd\ufffd2J"
