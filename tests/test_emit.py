"""``graphllm emit``: the program says what ``graphllm run`` says, and encodes as the library does."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest

import graphllm
from graphllm.api.emit import emit
from graphllm.cli import main
from graphllm.codegen import standalone
from graphllm.compiler.emit import project
from graphllm.compiler.emit.tokenizer_file import emitted_tokenizer
from graphllm.compiler.native import build
from graphllm.compiler.native.toolchain import find_compiler
from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.frontends.demo import CHECKPOINT
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import load_tokenizer
from tests.cpu_models import QUICK
from tests.shared_data import shared
from tests.small_plans import small_plan

TESTS = Path(__file__).parent
needs_make = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("g++") is None, reason="no make, or no g++"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, graphllm.Model]:
    """The demo model's program, built and moved elsewhere, and the model itself built with the same flags."""
    folder = tmp_path_factory.mktemp("emit")
    plan = folder / "demo.gllm"
    graphllm.compile("demo", plan, target="cpu", context=96).file.close()
    emit(plan, folder / "made")
    subprocess.run(["make", "-C", folder / "made", "CXX=g++", "CXXFLAGS=-O1"], check=True, capture_output=True)
    moved = folder / "elsewhere"
    (folder / "made").rename(moved)
    for left in (*moved.glob("*.cpp"), *moved.glob("*.o"), *moved.glob("*/*.h")):
        left.unlink()
    plan.rename(folder / "moved.gllm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAPHLLM_CACHE", str(folder / "cache"))
        patch.setattr(build, "FLAGS", QUICK)
        return moved, graphllm.load(folder / "moved.gllm", device="cpu", threads=1)


def said(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Standard output of the program, or its one line on stderr where it is to fail."""
    done = subprocess.run([folder / "generate", *arguments], capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == expect, done.stderr
    if expect:
        assert done.stderr.count("\n") == 1
        return done.stderr
    return done.stdout


@needs_make
@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("prompt", ["Once upon a time", '  Lily saw\n\na cat. She said, "Hé! 猫 😀"', "and " * 45])
def test_greedy_text(program: tuple[Path, graphllm.Model], prompt: str, threads: str) -> None:
    folder, model = program
    answer = model.generate(prompt, max_tokens=30)
    assert model.tokenizer is not None
    echo = model.tokenizer.decode(model.encode(prompt))
    assert said(folder, "-p", prompt, "-n", "30", "--threads", threads) == echo + answer.text + "\n"


@needs_make
@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("-t 0.8", {"temperature": 0.8}),
        ("-t 1.3 --top-k 12", {"temperature": 1.3, "top_k": 12}),
        ("-t 1 --top-p 0.8 --min-p 0.01", {"temperature": 1.0, "top_p": 0.8, "min_p": 0.01}),
        (
            "-t 1 --repetition-penalty 1.3 --presence-penalty 0.2 --frequency-penalty 0.1 --penalty-window 9",
            {
                "temperature": 1.0,
                "repetition_penalty": 1.3,
                "presence_penalty": 0.2,
                "frequency_penalty": 0.1,
                "penalty_window": 9,
            },
        ),
        ("--repetition-penalty 1.5", {"repetition_penalty": 1.5}),
    ],
)
@pytest.mark.parametrize("seed", [0, 7, 2**53 + 12345])
def test_sampled_ids(program: tuple[Path, graphllm.Model], words: str, settings: dict[str, float], seed: int) -> None:
    folder, model = program
    ids = model.encode("Once there was a fox")
    answer = model.generate(ids, max_tokens=40, ignore_eos=True, seed=seed, **settings)
    given = ["--ids", " ".join(map(str, ids)), "-n", "40", "--ignore-eos", "--seed", str(seed), *words.split()]
    assert said(folder, *given).split() == [str(i) for i in answer.tokens]


@needs_make
def test_ends_and_refusals(program: tuple[Path, graphllm.Model], tmp_path: Path) -> None:
    folder, model = program
    text = model.generate("Once upon a time", max_tokens=None).text
    assert said(folder, "-p", "Once upon a time", "-n", "-1", "--no-echo") == text + "\n"
    for stops in (["\n"], ["zebra", text[40:47], text[44:60]], [text[-3:]]):
        answer = model.generate("Once upon a time", max_tokens=None, stop=stops)
        given = [word for stop in stops for word in ("--stop", stop)]
        assert said(folder, "-p", "Once upon a time", "-n", "-1", "--no-echo", *given) == answer.text + "\n"
    assert "--stop: expected a text" in said(folder, "-p", "a", "--stop", "", expect=2)
    assert "do not fit in 96 positions" in said(folder, "-p", "and " * 200, expect=2)
    assert "no such option" in said(folder, "--fast", expect=2)
    assert "expected a number from 0 to 1" in said(folder, "-p", "a", "--top-p", "2", expect=2)
    assert "expected a whole number from 0 to" in said(folder, "--ids", "1 99999999", expect=2)
    assert "not UTF-8 at byte 1" in _bytes_refused(folder, b"a\xff")
    assert "cannot be opened" in said(folder, "-p", "a", "--folder", str(tmp_path), expect=2)
    shutil.copy(folder / "tokenizer.bin", tmp_path)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:-64])
    assert "weights: expected" in said(folder, "-p", "a", "--folder", str(tmp_path), expect=2)
    (tmp_path / "tokenizer.bin").write_bytes((folder / "tokenizer.bin").read_bytes()[:-7])
    assert "cut short" in said(folder, "-p", "a", "--folder", str(tmp_path), expect=2)


def _bytes_refused(folder: Path, prompt: bytes) -> str:
    done = subprocess.run([folder / "generate"], input=prompt, capture_output=True, timeout=60)
    assert done.returncode == 2
    return done.stderr.decode()


# Tokenizers

PIECES = [
    *("a", "B", "the", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'ſ", "1", "23", "4567", "é", "ß", "日本", "한"),  # noqa: RUF001
    *("😀", "👩‍👩", "!?!", "…", "_", "<s>", "</s>", "<|im_start|>", "<|eot_id|>", "<unk>", "▁", "\u00a0", "\u3000"),
    *("Ⅷ", "²", "ا", "л", "\x00", "\x1c", "ﷺ", "<0x41>", "\ue000", "Ǆ", "<|start_story|>"),  # noqa: RUF001
]
TOKENIZERS = [
    *("tokenizers/llama2/tokenizer.model", "tokenizers/llama3/tokenizer.json", "tokenizers/qwen2/tokenizer.json"),
    *("tokenizers/tok512/tok512.bin", "tokenizers/tok512/tokenizer.json", "real/story-hf/tokenizer.json", ""),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    try:
        compiler = find_compiler().command
    except GraphLLMError:
        pytest.skip("no C++ compiler on this machine")
    flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-I", str(project.SOURCES)]
    subprocess.run([*compiler, *flags, str(TESTS / "emitted_encoder.cpp"), "-o", folder / "encode"], check=True)
    return folder / "encode"


def texts_for(file: Path) -> list[str]:
    rng = random.Random(str(file.name))
    cases = file.parent / "cases.jsonl"
    known = [json.loads(line)["text"] for line in cases.read_text().splitlines()] if cases.exists() else []
    mixed = ["".join(rng.choice(PIECES) for _ in range(rng.randint(1, 30))) for _ in range(150)]
    planes = [(32, 126), (160, 0x500), (0x3000, 0xD7FF), (0x1F300, 0x1F64F)]
    wild = ["".join(chr(rng.randint(*rng.choice(planes))) for _ in range(rng.randint(1, 20))) for _ in range(100)]
    return ["", "a", " ", *known, *mixed, *wild]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_encodes_and_decodes_as_the_library(encoder: Path, name: str, tmp_path: Path) -> None:
    file = shared(name) if name else CHECKPOINT.parent / "tokenizer.model"
    data = find_tokenizer(file, file)
    assert data is not None
    tokenizer = load_tokenizer(data, 1 << 20)
    emitted = emitted_tokenizer(data, tokenizer)
    assert emitted.why_not == ""
    (tmp_path / "tokenizer.bin").write_bytes(emitted.content)
    texts = texts_for(file)
    if "qwen2" in name:  # which normalises
        texts += marked_texts()
    lines = encoded(encoder, tmp_path, texts).splitlines()
    for i, text in enumerate(texts):
        ids = tokenizer.encode(text)
        assert [int(word) for word in lines[2 * i].split()] == ids, text
        assert bytes.fromhex(lines[2 * i + 1]).decode() == tokenizer.decode(ids), text


def marked_texts() -> list[str]:
    """Letters with marks in any order and number, whole and apart: Latin, Greek, Hebrew, Arabic, Indic, Hangul."""
    rng = random.Random(5)
    letters = [*"aeEoσßאبकনᄀ가각ᅡᆨ각ὖ", "\u1e9b", "\u0958", "\u2126", "\uf900", "\U0001d15e"]  # noqa: RUF001
    marks = [
        chr(i) for i in (*range(0x300, 0x34F), 0x5B0, 0x5BC, 0x64B, 0x653, 0x93C, 0x94D, 0x9BE, 0x9D7, 0x1161, 0x11A8)
    ]
    mixed = ["".join(rng.choice(letters if rng.random() < 0.4 else marks) for _ in range(12)) for _ in range(300)]
    assert sum(unicodedata.normalize("NFC", t) != t for t in mixed) > 200
    every = [chr(i) + "\u0316\u0301" for i in (*range(0xC0, 0x250), *range(0x1E00, 0x2000), *range(0xF900, 0xFB50))]
    return [*mixed, *("".join(every[i : i + 50]) for i in range(0, len(every), 50))]


def encoded(encoder: Path, folder: Path, texts: Sequence[str], expect: int = 0) -> str:
    lines = "".join(text.encode().hex() + "\n" for text in texts)
    done = subprocess.run([encoder, folder / "tokenizer.bin"], input=lines, capture_output=True, text=True, timeout=120)
    assert done.returncode == expect, done.stderr
    return done.stdout if not expect else done.stderr.split()[1]


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normaliser Lowercase"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cuts words"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}}, "cuts words"),
    ],
)
def test_what_it_cannot_encode_is_left_to_ids(edit: dict[str, object], why: str) -> None:
    blob = json.loads(shared("tokenizers/tok512/tokenizer.json").read_text()) | edit
    data = TokenizerData("tokenizer.json", json.dumps(blob).encode())
    emitted = emitted_tokenizer(data, load_tokenizer(data, 512))
    assert why in emitted.why_not


# The folder


def test_folder_is_whole_and_weights_are_the_plans(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plan = small_plan(tmp_path, slots=3)  # for numpy, three sequences: lowered again for cpu and one
    assert main(["emit", str(plan), "-o", str(tmp_path / "made")]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("written: ")
    assert "lowered again for context 16, slots 1" in err
    names = {str(p.relative_to(tmp_path / "made")) for p in (tmp_path / "made").rglob("*") if p.is_file()}
    assert {"Makefile", "README.md", "main.cpp", "model.cpp", "model.h", "weights.bin"} <= names
    assert "tokenizer.bin" not in names  # the plan has none
    assert "prompts are ids" in (tmp_path / "made" / "README.md").read_text()
    assert {f"runtime/{p.name}" for p in Path(standalone.__file__).parent.glob("*.h")} <= names
    content, header = (tmp_path / "made" / "weights.bin").read_bytes(), (tmp_path / "made" / "model.h").read_text()
    places = [int(n) for n in header.split("WEIGHTS[] = {")[1].split("};")[0].replace(",", " ").split()]
    with graphllm.plan.plan_file.PlanFile.open(plan) as file:
        stored = {file.weight(name).tobytes() for name in file.weights}
    assert len(stored) == len(places)
    assert all(any(content[at:].startswith(w) for w in stored) for at in places)


def test_nothing_is_left_of_a_folder_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(tmp_path)

    def full(name: object, size: int) -> None:
        raise PlanError("disk full")

    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(project, "replacing", full)
    with pytest.raises(PlanError, match="disk full"):
        emit(plan, tmp_path / "made")
    assert sorted(os.listdir(tmp_path)) == before


def test_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = small_plan(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    cut = tmp_path / "cut.gllm"
    cut.write_bytes(plan.read_bytes()[:-100])
    for given, folder, told in (
        (plan, "full", "not empty"),
        (plan, "file", "a file"),
        (plan, "no/such", "no such folder"),
        (cut, "made", "cut short"),
        (tmp_path / "model", "made", "not a plan"),
        (tmp_path / "nothing", "made", "cannot be opened"),
    ):
        assert main(["emit", str(given), "-o", str(tmp_path / folder)]) == 2
        err = capsys.readouterr().err
        assert told in err
        assert err.count("\n") == 1
        assert not (tmp_path / "made").exists()
    with pytest.raises(RunError, match="target: 'gpu'; expected cpu"):
        emit(plan, tmp_path / "made", target="gpu")
    assert (tmp_path / "full" / "precious").read_text() == "x"


@pytest.mark.skipif(sys.platform != "linux", reason="folders are compared by bytes, as one system writes them")
def test_the_same_plan_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    for name in ("one", "two"):
        emit(plan, tmp_path / name)
    for path in (tmp_path / "one").rglob("*"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.is_dir() or path.read_bytes() == other.read_bytes()
