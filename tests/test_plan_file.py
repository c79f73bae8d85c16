"""A plan file gives back what was put in, refuses everything damaged in one line, and runs nothing of what it holds."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import PlanError
from graphllm.plan.container import TensorSpec, write_container
from graphllm.plan.plan_file import PlanFile, write_plan
from graphllm.plan.tokenizer_data import TokenizerData

ROOT = Path(__file__).resolve().parents[1]
TEXTS = {"ir": "weight @w : f32[7]\n", "lowered/cpu": "é€😀", "source/cpu": "import os; os._exit(9)\n", "empty": ""}
DOCUMENTS: dict[str, dict[str, Any]] = {
    "config": {"dim": 64, "norm_eps": 1e-5, "windows": [1, 2], "eos": None},
    "options": {},
    "provenance": {"files": [{"name": "a.bin", "bytes": 2**40, "sha256": "00"}]},
    "report": {"passes": {"fuse": {"kernels": 3}}},
}
TOKENIZER = TokenizerData(
    "llama2.c", bytes(range(256)), '{"a": "\\ud83d\\ude00"}', "{{ bos }}", {"tools": "{{ é }}"}, {"bos_token": "<s>"}
)


def weights(seed: int, count: int = 6) -> dict[str, NDArray[Any]]:
    rng = random.Random(seed)
    dtypes = ("<f4", "<f2", "i1", "<i4", "u1")
    arrays: dict[str, NDArray[Any]] = {}
    for i in range(count):
        dtype = np.dtype(rng.choice(dtypes))
        shape = tuple(rng.choice((1, 2, 5, 8)) for _ in range(rng.randrange(3)))
        size = int(np.prod(shape)) * dtype.itemsize
        # Names that look like other parts of the plan must not collide with them.
        arrays[rng.choice(("l{}.wq", "text/{}", "tokenizer/blob{}", "weight/{}")).format(i)] = np.frombuffer(
            rng.randbytes(size), dtype
        ).reshape(shape)
    return arrays


def specs_of(arrays: dict[str, NDArray[Any]]) -> list[TensorSpec]:
    names = {"<f4": "f32", "<f2": "f16", "|i1": "i8", "<i4": "i32", "|u1": "u8"}
    return [TensorSpec(name, names[array.dtype.str], array.shape) for name, array in arrays.items()]  # pyright: ignore


def write(path: Path, arrays: dict[str, NDArray[Any]], tokenizer: TokenizerData | None = TOKENIZER) -> bytes:
    write_plan(
        path,
        texts=TEXTS,
        documents=DOCUMENTS,
        tokenizer=tokenizer,
        weights=specs_of(arrays),
        read_weight=arrays.__getitem__,
    )
    return path.read_bytes()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(PlanError) as caught:
            PlanFile.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < 10 * len(content) + 100_000
    return str(caught.value)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("verify", ["auto", "all", "none"])
def test_what_is_written_is_read(tmp_path: Path, seed: int, verify: Any) -> None:
    arrays = weights(seed)
    write(tmp_path / "a.gllm", arrays, TOKENIZER if seed % 2 else None)
    with PlanFile.open(tmp_path / "a.gllm", verify) as plan:
        assert plan.sections == TEXTS
        assert plan.documents == DOCUMENTS
        assert plan.tokenizer == (TOKENIZER if seed % 2 else None)
        assert {name: spec.name for name, spec in plan.weights.items()} == {name: name for name in arrays}
        assert plan.weight_bytes == sum(array.nbytes for array in arrays.values())
        for name, array in arrays.items():
            got = plan.weight(name)
            assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
            assert plan.weights[name].shape == array.shape


def test_a_plan_without_anything(tmp_path: Path) -> None:
    write_plan(
        tmp_path / "a.gllm", texts={}, documents={}, tokenizer=None, weights=[], read_weight=lambda _: np.zeros(0)
    )
    with PlanFile.open(tmp_path / "a.gllm", "all") as plan:
        assert (plan.sections, plan.documents, plan.tokenizer, plan.weights) == ({}, {}, None, {})


def test_equal_input_gives_equal_bytes_wherever_it_lies(tmp_path: Path) -> None:
    arrays = weights(1)
    first = write(tmp_path / "a.gllm", arrays)
    (tmp_path / "b").mkdir()
    second = tmp_path / "b" / "other.gllm"
    write_plan(
        second,
        texts=dict(reversed(TEXTS.items())),
        documents=dict(reversed(DOCUMENTS.items())),
        tokenizer=TOKENIZER,
        weights=specs_of(arrays),
        read_weight=arrays.__getitem__,
    )
    assert second.read_bytes() == first
    moved = (tmp_path / "a.gllm").rename(tmp_path / "b" / "moved.gllm")
    with PlanFile.open(moved) as plan:
        assert plan.sections == TEXTS


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    arrays = weights(2)
    write(tmp_path / "a.gllm", arrays)
    with safetensors.safe_open(tmp_path / "a.gllm", "np") as opened:
        for name, array in arrays.items():
            assert opened.get_tensor(f"weight/{name}").tobytes() == array.tobytes()
        assert bytes(opened.get_tensor("text/lowered/cpu")).decode() == TEXTS["lowered/cpu"]


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    content = write(tmp_path / "a.gllm", weights(3))
    assert 3000 < len(content) < 9000
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        refused(tmp_path / "b.gllm", bytes(damaged))


def test_any_missing_end_and_any_more_is_noticed(tmp_path: Path) -> None:
    content = write(tmp_path / "a.gllm", weights(4))
    for length in range(len(content)):
        refused(tmp_path / "b.gllm", content[:length])
    assert "too long" in refused(tmp_path / "b.gllm", content + b"\n")


def test_random_damage_is_noticed(tmp_path: Path) -> None:
    rng = random.Random()
    content = write(tmp_path / "a.gllm", weights(5))
    for _ in range(500):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            a, b = sorted(rng.randrange(len(content)) for _ in range(2))
            damaged[a:b] = rng.choice((b"", rng.randbytes(b - a), damaged[a:b][::-1], bytes(b - a)))
        if damaged != content:
            refused(tmp_path / "b.gllm", bytes(damaged))


def test_only_weights_may_wait_for_their_check(tmp_path: Path) -> None:
    path = tmp_path / "a.gllm"
    arrays: dict[str, NDArray[Any]] = {"w": np.zeros(64, np.uint8), "big": np.zeros(64 << 20, np.uint8)}
    content = bytearray(write(path, arrays))
    at = content.index(b"import os")
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(PlanError, match="'text/source/cpu' is damaged"):
        PlanFile.open(path, "none")
    content[at] ^= 1
    content[at - (32 << 20)] ^= 1
    path.write_bytes(content)
    with PlanFile.open(path) as plan, pytest.raises(PlanError, match="'weight/big' is damaged"):
        plan.verify_weights()
    with pytest.raises(PlanError, match="'weight/big' is damaged"):
        PlanFile.open(path, "all")


def part(name: str, content: bytes, dtype: Any = "u8") -> tuple[TensorSpec, NDArray[Any]]:
    return TensorSpec(name, dtype, (len(content),)), np.frombuffer(content, {"u8": "u1", "i8": "i1"}[dtype])


ABOUT = b'{"chat_template":"","config":"","kind":"llama2.c"}'


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([part("text/ir", b"\xff")], "expected UTF-8 text"),
        ([part("text/ir", b"a", "i8")], "expected bytes"),
        ([part("text/", b"a")], "not a part of a plan"),
        ([part("other", b"a")], "not a part of a plan"),
        ([part("weight/", b"a")], "not a part of a plan"),
        ([part("json/config", b"[]")], "document 'config': not a JSON object"),
        ([part("json/config", b'{"a":1,"a":2}')], "appears twice"),
        ([part("json/config", b'{"a":NaN}')], "NaN is not JSON"),
        ([part("json/config", b"[" * 10_000)], "nested deeper"),
        ([part("json/config", b"")], "not valid JSON"),
        ([part("tokenizer/blob", b"a")], "half a tokenizer"),
        ([part("tokenizer/about", ABOUT)], "half a tokenizer"),
        ([part("tokenizer/blob", b"a"), part("tokenizer/about", b"{}")], "expected a kind of tokenizer.json"),
        ([part("tokenizer/blob", b"a"), part("tokenizer/about", ABOUT.replace(b"llama2.c", b"x"))], "expected a kind"),
        ([part("tokenizer/blob", b"a"), part("tokenizer/about", b'{"kind":["llama2.c"]}')], "expected a kind"),
        ([part("tokenizer/blob", b"a"), part("tokenizer/about", ABOUT.replace(b'""', b"{}"))], "expected a kind, and"),
        ([part("tokenizer/blob", b"a"), part("tokenizer/about", ABOUT[:-1] + b',"x":1}')], "expected a kind, and"),
        (
            [part("tokenizer/blob", b"a"), part("tokenizer/about", ABOUT[:-1] + b',"special_tokens":{"a":1}}')],
            "other_templates, special_tokens",
        ),
        (
            [part("tokenizer/blob", b"a"), part("tokenizer/about", ABOUT[:-1] + b',"other_templates":["a"]}')],
            "other_templates, special_tokens",
        ),
    ],
)
def test_a_sound_container_that_is_no_plan(
    tmp_path: Path, parts: list[tuple[TensorSpec, NDArray[Any]]], words: str
) -> None:
    path = tmp_path / "a.gllm"
    arrays = {spec.name: array for spec, array in parts}
    write_container(path, [spec for spec, _ in parts], arrays.__getitem__, {})
    assert words in refused(path, path.read_bytes())


@pytest.mark.parametrize(
    ("texts", "documents", "words"),
    [
        ({"ir": "\ud800"}, {}, "text 'ir': not text that UTF-8 can hold"),
        ({"a b": ""}, {}, "not a name"),
        ({}, {"config": {"x": float("nan")}}, "document 'config': cannot be written as JSON"),
        ({}, {"config": {"x": object()}}, "document 'config': cannot be written as JSON"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, texts: Any, documents: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        write_plan(
            tmp_path / "a.gllm",
            texts=texts,
            documents=documents,
            tokenizer=None,
            weights=[],
            read_weight=lambda _: np.zeros(0),
        )
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def read(name: str) -> NDArray[Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plan(
            tmp_path / "a.gllm",
            texts=TEXTS,
            documents={},
            tokenizer=None,
            weights=[TensorSpec("w", "f32", (1,))],
            read_weight=read,
        )
    assert list(tmp_path.iterdir()) == []


AUDITED = """
import sys
from graphllm.errors import PlanError
from graphllm.plan.plan_file import PlanFile
with PlanFile.open(sys.argv[1], "all") as plan:  # imports what it needs, before anyone listens
    assert [plan.weight(name).shape for name in plan.weights]
seen = set()
sys.addaudithook(lambda event, _: seen.add(event))
for path in sys.argv[1:]:
    try:
        with PlanFile.open(path, "all") as plan:
            assert [plan.weight(name).shape for name in plan.weights]
    except PlanError:
        seen.add("refused")
print(*sorted(seen), sep="\\n")
"""


def test_loading_executes_nothing(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.gllm", weights(6)))
    content[-1] ^= 1
    (tmp_path / "b.gllm").write_bytes(content)
    run = subprocess.run(
        [sys.executable, "-c", AUDITED, tmp_path / "a.gllm", tmp_path / "b.gllm"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    seen = set(run.stdout.split())
    assert {"open", "mmap.__new__", "refused"} <= seen
    forbidden = ("exec", "compile", "import", "ctypes.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")
    forbidden += ("os.fork", "socket.", "pickle.", "marshal.", "os.remove", "os.rename", "shutil.")
    assert [event for event in seen if event.startswith(forbidden)] == []


def test_loading_needs_nothing_above_it(tmp_path: Path) -> None:
    write(tmp_path / "a.gllm", weights(7))
    code = (
        "import sys; from graphllm.plan.plan_file import PlanFile; PlanFile.open(sys.argv[1]).close();"
        "print(*[name for name in sys.modules if name.startswith('graphllm.')])"
    )
    command = [sys.executable, "-c", code, os.fspath(tmp_path / "a.gllm")]
    loaded = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    floor = ("graphllm.errors", "graphllm._version", "graphllm.plan")
    assert "graphllm.plan.container" in loaded
    assert [name for name in loaded if not name.startswith(floor)] == []
