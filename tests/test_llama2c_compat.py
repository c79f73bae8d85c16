"""``run --compat llama2.c`` prints what llama2.c's run prints, byte for byte: the digests are of what that printed."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from graphllm.cli import main
from tests.shared_data import shared

MORE = "More\n" * 12
NICE = "be nice to all the people and say what you think of it"
LONGER = "Lily saw a cat on the mat and was so happy that"  # than -n allows
FILES = "real/stories260K"


class Terminal:
    """``main`` in this process: what it prints, and what is typed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], cache: Path) -> None:
        self.monkeypatch, self.captured = monkeypatch, capfdbinary
        monkeypatch.setenv("GRAPHLLM_CACHE", str(cache))

    def run(self, *words: str, typed: str = "") -> tuple[int, bytes, str]:
        self.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        code = main(["run", *words])
        out, err = self.captured.readouterr()
        return code, out, err.decode()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes], cache: Path) -> Terminal:
    return Terminal(monkeypatch, capfdbinary, cache)


@pytest.mark.parametrize(
    ("options", "typed", "digest"),
    [
        (["-t", "0", "-n", "200"], "", "f5a0e67db7424051"),
        (["-t", "1.0", "-p", "0.9", "-s", "133742"], "", "0d33d0d617b86488"),
        (["-s", "133742"], "", "0d33d0d617b86488"),  # these are the defaults
        (["-t", "1.0", "-p", "1.0", "-s", "1234", "-n", "64"], "", "f7d6eecfae553ea6"),
        (["-t", "0.8", "-p", "0.9", "-s", "1234", "-n", "64", "-i", "Lily saw a cat"], "", "bb5eaba145f98a97"),
        (
            ["-t", "0.8", "-s", "7", "-n", "5", "-i", LONGER],
            "",
            "4424aea1b0c43a1a",
        ),
        (["-t", "2", "-p", "0.5", "-s", "99", "-n", "0"], "", "49df9efbd92d1a73"),
        (["-t", "-3", "-p", "7", "-s", "99", "-n", "99999", "-i", "你好 Lily"], "", "fdfcac094b5eadf4"),
        (["-t", "1.5abc", "-p", ".95", "-s", "-5", "-n", "40x"], "", "5bcaecfb3451b660"),
        (["-t", "3", "-p", "1", "-s", "11", "-n", "300", "-i", "é"], "", "d99d62045aa56f92"),
        (["-m", "chat", "-n", "150", "-t", "0"], f"sys\nHello\n{MORE}", "9cf2ed92ff7d759b"),
        (["-m", "chat", "-n", "300", "-t", "1.2", "-s", "5", "-p", "0.95"], f"sys\nHello\n{MORE}", "fbe0ba0c553586ae"),
        (
            ["-m", "chat", "-n", "300", "-t", "2.5", "-s", "5", "-p", "1", "-i", "Tell me"],
            f"\nHello\n{MORE}",
            "6fc6246ec1ff102e",
        ),
        (
            ["-m", "chat", "-n", "30", "-t", "2.5", "-s", "6", "-p", "1", "-y", NICE],
            f"Hello\n{MORE}",
            "72062a132c88313f",
        ),
    ],
)
def test_it_prints_what_run_c_prints(terminal: Terminal, options: list[str], typed: str, digest: str) -> None:
    model, tokenizer = str(shared(f"{FILES}/stories260K.bin")), str(shared(f"{FILES}/tok512.bin"))
    code, out, err = terminal.run(model, "--compat", "llama2.c", "-z", tokenizer, *options, typed=typed)
    assert code == 0, err
    assert hashlib.sha256(out).hexdigest()[:16] == digest, out.decode("utf-8", "replace")
    assert ("achieved tok/s: " in err) == ("chat" not in options)


def test_the_printed_golden_is_the_one_that_was_published(terminal: Terminal) -> None:
    """Golden C in words, so that the digests above are seen to be of text."""
    model, tokenizer = str(shared(f"{FILES}/stories260K.bin")), str(shared(f"{FILES}/tok512.bin"))
    options = ["-t", "1.0", "-p", "1.0", "-s", "1234", "-n", "64"]
    code, out, _ = terminal.run(model, "-z", tokenizer, *options, "--compat=llama2.c")
    expected = (
        "Once upon a time, there was a little girl named Lily. She loved to go now a place of cats in a big pot. "
        "One day, she found a sign in her cozy sea. The wine was so\n"
    )
    assert (code, out.decode()) == (0, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-n"], "Usage:"),
        (["-q", "5"], "Usage:"),
        (["--temperature", "5"], "Usage:"),
        (["n", "5"], "Usage:"),
        (["-nn", "5"], "Usage:"),
        (["-m", "talk"], "unknown mode: talk"),
        (["-z", "nowhere.bin"], "nowhere.bin"),
        (["-t", "nan"], "-t nan"),
        (["--kv", "f64"], "--kv f64"),
        (["--threads", "many"], "--threads many"),
        (["--device", "gpu9"], "gpu9"),
    ],
)
def test_what_is_wrong_ends_with_1(terminal: Terminal, options: list[str], words: str) -> None:
    code, out, err = terminal.run(str(shared(f"{FILES}/stories260K.bin")), "--compat", "llama2.c", *options)
    assert (code, out) == (1, b"")
    assert words in err
    assert "Traceback" not in err


def test_no_checkpoint(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.run("--compat", "llama2.c")[0] == 1
    code, _, err = terminal.run("nowhere.bin", "--compat", "llama2.c")
    assert (code, err.count("\n")) == (1, 1)
    # the tokenizer of the folder one is in, as there
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tokenizer.bin").write_bytes(shared(f"{FILES}/tok512.bin").read_bytes())
    code, out, _ = terminal.run(str(shared(f"{FILES}/stories260K.bin")), "--compat", "llama2.c", "-t", "0", "-n", "8")
    assert (code, out) == (0, b"Once upon a time, there was a\n")
