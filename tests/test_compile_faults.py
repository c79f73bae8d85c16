"""What goes wrong while compiling: one line that says what to do, no part of a plan left, and the old one as it was."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.plan import atomic_file
from tests.checkpoint_writers import write_huggingface, write_llama2c
from tests.model_zoo import random_tensors
from tests.small_plans import SMALL
from tests.small_tokenizer import LETTERS, write_tokenizer

ROOT = Path(__file__).resolve().parents[1]
TEXT_MODEL = replace(SMALL, vocab=300, context=64, eos_ids=())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_huggingface(tmp_path / "model", SMALL, random_tensors(SMALL, 1))
    return tmp_path / "model"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with an older plan in it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "p.gllm").write_bytes(b"the old one")
    return tmp_path / "out" / "p.gllm"


def refused(*arguments: Any, kind: type[graphllm.GraphLLMError] = graphllm.GraphLLMError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        graphllm.compile(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_untouched(out: Path) -> None:
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == {"p.gllm": b"the old one"}


def test_a_plan_replaces_the_old_one(checkpoint: Path, out: Path) -> None:
    graphllm.compile(checkpoint, out)
    assert graphllm.load(out).generate([1], max_tokens=1).tokens
    assert [p.name for p in out.parent.iterdir()] == ["p.gllm"]


@pytest.mark.parametrize("after", [0, 3_000, 30_000, 46_000])
def test_disk_full_while_writing(monkeypatch: pytest.MonkeyPatch, checkpoint: Path, out: Path, after: int) -> None:
    room, write = after, os.write

    def full(fd: int, data: Any) -> int:
        nonlocal room
        if len(data) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= len(data)
        return write(fd, data)

    monkeypatch.setattr(atomic_file.os, "write", full)
    message = refused(checkpoint, out, kind=graphllm.PlanError)
    monkeypatch.undo()
    assert "not enough disk space; expected" in message
    assert_untouched(out)


def test_disk_too_small_is_known_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, out: Path
) -> None:
    usage = shutil.disk_usage(out.parent)
    monkeypatch.setattr(atomic_file.shutil, "disk_usage", lambda folder: usage._replace(free=10_000))
    assert "not enough disk space; expected" in refused(checkpoint, out, kind=graphllm.PlanError)
    assert_untouched(out)


def test_file_size_limit_of_the_system(checkpoint: Path, out: Path) -> None:
    """The real thing: the system refuses to let the file grow."""
    program = (
        "import resource, sys, graphllm\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: graphllm.compile(sys.argv[1], sys.argv[2])\n"
        "except graphllm.PlanError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(checkpoint), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{out}: cannot be written; file too large\n"  # the disk has room: it must not be blamed
    assert done.stderr == ""
    assert_untouched(out)


def test_ctrl_c(checkpoint: Path, out: Path) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if what == "writing" and done >= total // 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        graphllm.compile(checkpoint, out, progress=interrupt)
    assert_untouched(out)


def test_a_plan_never_takes_the_place_of_its_checkpoint(tmp_path: Path, flat: Path) -> None:
    folder, vocabulary = tmp_path / "text", tmp_path / "tok.bin"
    write_huggingface(folder, TEXT_MODEL, random_tensors(TEXT_MODEL, 3))
    write_tokenizer(folder / "tokenizer.bin")
    write_tokenizer(vocabulary)
    (tmp_path / "link.gllm").symlink_to(flat)
    for source, tokenizer, out in (
        *((folder, None, file) for file in folder.iterdir()),
        (folder, vocabulary, vocabulary),
        (flat, None, flat),
        (flat, None, tmp_path / "link.gllm"),
    ):
        before = out.read_bytes()
        with pytest.raises(graphllm.PlanError, match="it belongs to the checkpoint; expected another name"):
            graphllm.compile(source, out, tokenizer=tokenizer)
        assert out.read_bytes() == before


def test_output_that_cannot_be(tmp_path: Path, checkpoint: Path, out: Path) -> None:
    assert "no such folder" in refused(checkpoint, tmp_path / "no" / "p.gllm", kind=graphllm.PlanError)
    assert "got a folder" in refused(checkpoint, tmp_path, kind=graphllm.PlanError)
    assert "not a directory" in refused(checkpoint, out / "p.gllm", kind=graphllm.PlanError)
    os.mkfifo(tmp_path / "fifo")
    assert "got a device, pipe or socket" in refused(checkpoint, tmp_path / "fifo", kind=graphllm.PlanError)
    assert "null" in refused(checkpoint, tmp_path / "a\0b", kind=graphllm.PlanError)
    assert "name too long" in refused(checkpoint, tmp_path / ("x" * 300), kind=graphllm.PlanError)
    message = refused(checkpoint, tmp_path / "q.gllm", dump_ir=out, kind=graphllm.PassError)
    assert "cannot write the IR" in message
    assert not (tmp_path / "q.gllm").exists()


def as_nobody(program: str, *arguments: Path) -> str:
    """What a program prints that runs without the privileges of root; its interpreter need not be readable then."""
    prelude = (
        "import os, sys, tempfile, graphllm\n"
        "with tempfile.TemporaryDirectory() as folder: graphllm.compile(sys.argv[1], folder + '/p.gllm')\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("GRAPHLLM_CACHE", "XDG_CACHE_HOME")}
    environment["HOME"] = str(arguments[-1])
    command = [sys.executable, "-c", prelude + program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def locked(checkpoint: Path) -> Iterator[Path]:
    """A folder in which nobody may write, and a checkpoint that everybody may read, both reachable."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        shutil.copytree(checkpoint, base / "model")
        (base / "shut").mkdir(mode=0o555)
        for path, _, files in os.walk(base):
            os.chmod(path, 0o555)
            for file in files:
                os.chmod(Path(path) / file, 0o444)
        yield base
        os.chmod(base, 0o755)
        os.chmod(base / "model", 0o755)
        os.chmod(base / "shut", 0o755)


def test_folder_that_may_not_be_written(locked: Path) -> None:
    program = (
        "try: graphllm.compile(sys.argv[1], sys.argv[2] + '/p.gllm')\nexcept graphllm.PlanError as error: print(error)"
    )
    assert as_nobody(program, locked / "model", locked / "shut") == (
        f"{locked}/shut/p.gllm: cannot be written; permission denied"
    )


def test_cache_that_may_not_be_written(locked: Path) -> None:
    program = "try: graphllm.load(sys.argv[1])\nexcept graphllm.GraphLLMError as error: print(error)"
    assert as_nobody(program, locked / "model", locked / "shut") == (
        f"cache {locked}/shut/.cache/graphllm: cannot be made; permission denied; set GRAPHLLM_CACHE to another folder"
    )


@pytest.mark.parametrize("how", ["cut short", "written again", "replaced", "gone"])
def test_checkpoint_that_changes_while_it_is_read(checkpoint: Path, out: Path, how: str) -> None:
    file = checkpoint / "model.safetensors"
    content = file.read_bytes()

    def change(what: str, done: int, total: int) -> None:
        if what == "writing" and 0 < done < total:
            if how == "cut short":
                os.truncate(file, 600)
            elif how == "written again":
                file.write_bytes(content[:-4] + bytes(4))
            elif how == "replaced":
                (checkpoint / "new").write_bytes(content)
                (checkpoint / "new").replace(file)
            elif file.exists():
                file.unlink()

    message = refused(checkpoint, out, progress=change, kind=graphllm.CheckpointError)
    assert message == f"{file}: changed while it was compiled; compile it again when it is complete"
    assert_untouched(out)


# Tokenizers


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A llama2.c model of 300 ids without a tokenizer."""
    folder = tmp_path / "flat"
    folder.mkdir()
    config = replace(TEXT_MODEL, rope_pairing="interleaved")
    write_llama2c(folder / "model.bin", config, random_tensors(config, 2))
    return folder / "model.bin"


def test_tokenizer_larger_than_its_model(tmp_path: Path, flat: Path, out: Path) -> None:
    write_tokenizer(tmp_path / "big.bin", 301)
    message = refused(flat, out, tokenizer=tmp_path / "big.bin", kind=graphllm.TokenizerError)
    assert "at most 300 ids" in message
    assert "got 301" in message
    assert_untouched(out)
    write_tokenizer(tmp_path / "fits.bin", 300)
    assert graphllm.load(graphllm.compile(flat, out, tokenizer=tmp_path / "fits.bin").path).allowed == 300
    model = graphllm.load(out)
    assert model.tokenizer is not None
    with pytest.raises(graphllm.TokenizerError, match="at most 300 ids"):
        assert graphllm.load(out, tokenizer=tmp_path / "big.bin").tokenizer


def test_tokenizer_beside_the_checkpoint_is_taken(flat: Path, out: Path) -> None:
    write_tokenizer(flat.parent / "tokenizer.bin")
    model = graphllm.load(graphllm.compile(flat, out).path)
    assert model.encode("the") == [1, 259, *(259 + LETTERS.index(letter) for letter in "the")]
    answer = model.generate("the", max_tokens=5)
    assert answer.tokens == model.generate(model.encode("the"), max_tokens=5).tokens
    assert "".join(model.stream("the", max_tokens=5)) == answer.text


@pytest.mark.parametrize("settings", [{}, {"temperature": 3.0}, {"temperature": 1.0, "top_k": 5}])
def test_rows_past_the_tokenizer_are_never_sampled(tmp_path: Path, out: Path, settings: dict[str, Any]) -> None:
    """The model would choose nothing else."""
    tensors = random_tensors(TEXT_MODEL, 3)
    tensors["lm_head"][290:] *= 1000
    write_huggingface(tmp_path / "padded", TEXT_MODEL, tensors)
    without = graphllm.load(graphllm.compile(tmp_path / "padded", out).path)
    ids = [1, 2, 3]
    assert min(without.generate(ids, max_tokens=20, seed=1, **settings).tokens) >= 290
    write_tokenizer(tmp_path / "padded" / "tokenizer.bin")
    model = graphllm.load(graphllm.compile(tmp_path / "padded", out, slots=2).path)
    assert model.allowed == 259 + len(LETTERS)
    answers = [model.generate(ids, max_tokens=20, ignore_eos=True, seed=seed, **settings) for seed in range(3)]
    answers += model.generate_batch([ids, ids], max_tokens=20, ignore_eos=True, seed=1, **settings)
    assert all(len(a.tokens) == 20 and max(a.tokens) < model.allowed for a in answers)


def test_no_tokenizer_means_ids(flat: Path, out: Path) -> None:
    model = graphllm.load(graphllm.compile(flat, out).path)
    assert model.tokenizer is None
    answer = model.generate([1, 2, 3], max_tokens=4)
    assert (len(answer.tokens), answer.text) == (4, "")
    assert model.generate(np.array([1, 2, 3]), max_tokens=4).tokens == answer.tokens  # pyright: ignore
    for ask in (model.generate, model.stream, lambda text: model.generate_batch([text])):
        with pytest.raises(graphllm.RunError, match="no tokenizer; give token ids, or compile with --tokenizer"):
            ask("Once upon a time")
    with pytest.raises(graphllm.RunError, match="stop: this plan has no tokenizer"):
        model.generate([1], stop=["."])
    for wrong in ([1.5], ["a"], [None], 7, [[1]]):
        with pytest.raises(graphllm.RunError, match="prompt: expected text or a list of token ids"):
            model.generate(wrong)  # pyright: ignore[reportArgumentType]
    for wrong, words in (([], "no tokens"), ([300], "0 to 299"), ([-1], "0 to 299"), ([1] * 65, "65 tokens")):
        for ask in (model.generate, model.logits):
            with pytest.raises(graphllm.RunError, match=words):
                ask(wrong)


def test_a_new_answer_takes_the_place_of_an_old_one(flat: Path, out: Path) -> None:
    """An answer never goes on in another one's context; one not begun yet begins with its own."""
    model = graphllm.load(graphllm.compile(flat, out).path)
    expected = model.generate([5, 6], max_tokens=6).tokens
    first, second = model.stream([1, 2, 3], max_tokens=6), model.stream([5, 6], max_tokens=6)
    tokens = first.tokens()
    next(tokens)
    assert tuple(second.tokens()) == expected
    with pytest.raises(graphllm.RunError, match="something else was begun on this model"):
        next(tokens)
    for other in (lambda: model.logits([1]), lambda: model.generate_batch([[1]], max_tokens=1)):
        tokens = model.stream([1, 2, 3], max_tokens=6).tokens()
        next(tokens)
        other()
        with pytest.raises(graphllm.RunError, match="something else was begun on this model"):
            next(tokens)
