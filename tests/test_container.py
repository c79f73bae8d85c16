"""The container: what is written is read, by us and by the safetensors library, laid out as promised."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from blake3 import blake3

from graphllm.errors import CheckpointError, PlanError
from graphllm.plan import container as container_module
from graphllm.plan import header
from graphllm.plan.container import Container, TensorSpec, write_container
from graphllm.plan.provenance import hash_file
from graphllm.plan.strict_json import dump_json, parse_json, parse_object
from tests.small_containers import left_in, random_tensors, small, write


@pytest.mark.parametrize("seed", range(20))
def test_what_is_written_is_read(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    tensors = random_tensors(rng, rng.randrange(12))
    metadata = {f"k{i}": rng.choice(("", "é\n\0", '"}')) for i in range(rng.randrange(3))}
    write(tmp_path / "a.gllm", tensors, metadata)
    with Container.open(tmp_path / "a.gllm") as container:
        assert dict(container.metadata) == metadata
        assert set(container.specs) == set(tensors)
        container.verify()
        for name, (dtype, array) in tensors.items():
            got = container.array(name)
            assert container.specs[name] == TensorSpec(name, dtype, array.shape)
            assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
            assert got.flags.aligned
            assert not got.flags.writeable


@pytest.mark.parametrize("seed", range(20))
def test_every_tensor_is_aligned_and_nothing_lies_between(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "a.gllm"
    tensors = random_tensors(random.Random(1000 + seed), 12)
    write(path, tensors)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    del entries["__metadata__"]
    assert (8 + length) % 64 == 0
    at = 0
    for name, found in entries.items():
        begin, end = found["data_offsets"]
        assert begin == at
        assert begin % tensors[name][1].dtype.itemsize == 0
        if (end - begin) % 64 == 0:
            assert begin % 64 == 0
        at = end
    assert 8 + length + at == len(content)
    whole = [name for name, (_, array) in tensors.items() if array.nbytes % 64 == 0]
    assert list(entries)[: len(whole)] == whole


def test_the_safetensors_library_reads_it(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "a.gllm"
    for seed in range(10):
        tensors = random_tensors(random.Random(seed), 10)
        write(path, tensors, {"who": "é"})
        found = dict(safetensors.deserialize(path.read_bytes()))
        assert set(found) == set(tensors)
        for name, (_, array) in tensors.items():
            assert bytes(found[name]["data"]) == array.tobytes()
            assert tuple(found[name]["shape"]) == array.shape
        with safetensors.safe_open(path, "np") as opened:
            assert opened.metadata()["format"] == "gllm"
            assert opened.metadata()["who"] == "é"
            for name, (dtype, array) in tensors.items():
                if dtype != "bf16":
                    assert opened.get_tensor(name).tobytes() == array.tobytes()


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = random_tensors(random.Random(3), 9)
    write(tmp_path / "a.gllm", tensors, {"a": "1", "b": "2"})
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "b.gllm", tensors, {"b": "2", "a": "1"})
    assert (tmp_path / "a.gllm").read_bytes() == (tmp_path / "elsewhere" / "b.gllm").read_bytes()


def test_digests_are_those_of_the_data_and_of_the_header(tmp_path: Path) -> None:
    content = small(tmp_path / "a.gllm")
    (length,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + length])
    ours = entries.pop("__metadata__")
    zeroed = content[: 8 + length].replace(ours["digest"].encode(), b"0" * 64)
    assert hashlib.sha256(zeroed).hexdigest() == ours["digest"]
    data = [content[8 + length :][slice(*found["data_offsets"])] for found in entries.values()]
    assert ours["blake3"] == "".join(blake3(part).hexdigest() for part in data)


def test_arrays_that_are_not_contiguous_or_not_aligned(tmp_path: Path) -> None:
    base = np.arange(60, dtype=np.float32).reshape(6, 10)
    odd = np.frombuffer(b"x" + base.tobytes(), np.float32, offset=1).reshape(6, 10)
    assert not odd.flags.aligned
    arrays = {"t": base.T, "s": base[::2, ::3], "o": odd, "b": base.astype(ml_dtypes.bfloat16)[:, 1:3]}
    specs = [TensorSpec(name, "bf16" if name == "b" else "f32", array.shape) for name, array in arrays.items()]
    write_container(tmp_path / "a.gllm", specs, arrays.__getitem__, {})
    with Container.open(tmp_path / "a.gllm") as container:
        for name, array in arrays.items():
            assert container.array(name).tobytes() == array.tobytes()


@pytest.mark.parametrize("delay", [0.0, 0.02])
def test_one_tensor_at_a_time_and_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delay: float) -> None:
    def slowly(content: memoryview) -> str:
        time.sleep(delay)
        return str(blake3(content).hexdigest())

    monkeypatch.setattr(container_module, "_blake3", slowly)
    size, count = 16 << 20, 8
    specs = [TensorSpec(f"t{i}", "u8", (size,)) for i in range(count)]
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    write_container(
        tmp_path / "a.gllm",
        specs,
        lambda name: np.full(size, int(name[1:]), np.uint8),
        {},
        lambda done, total: seen.append((done, total)),
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.25 * size
    assert seen[-1] == (count * size, count * size)
    assert seen == sorted(seen)


def test_opening_does_not_depend_on_the_size_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.gllm"
    data = 4 << 30
    blank = header.render_header([TensorSpec("w", "u8", (data,))], ["0" * 64], {})
    path.write_bytes(blank)
    try:
        os.truncate(path, len(blank) + data)
    except OSError:
        pytest.skip("this file system has no sparse files of 4 GB")
    tracemalloc.start()
    with Container.open(path) as container:
        assert container.array("w")[-1] == 0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_arrays_outlive_their_container(tmp_path: Path) -> None:
    write(tmp_path / "a.gllm", {"w": ("u8", np.arange(64, dtype=np.uint8))})
    with Container.open(tmp_path / "a.gllm") as container:
        array = container.array("w")
    with pytest.raises(ValueError, match="closed"):
        container.array("w")
    del container
    assert array.tolist() == list(range(64))


@pytest.mark.parametrize(
    ("specs", "metadata", "words"),
    [
        ([TensorSpec("a", "u8", (1,))] * 2, {}, "given twice"),
        ([TensorSpec("a b", "u8", (1,))], {}, "not a name"),
        ([TensorSpec("__metadata__", "u8", (1,))], {}, "not a name"),
        ([TensorSpec("a", "u8", (-1,))], {}, "impossible shape"),
        ([TensorSpec("a", "f32", (2**59,))], {}, "impossible shape"),
        ([TensorSpec("a", "u8", (2,))], {}, "expected u8\\[2\\], got uint8\\[1\\]"),
        ([TensorSpec("a", "i8", (1,))], {}, "expected i8\\[1\\], got uint8\\[1\\]"),
        ([], {"digest": ""}, "reserved"),
        ([], {"x": "\ud800"}, "UTF-8"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    tmp_path: Path, specs: list[TensorSpec], metadata: dict[str, str], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        write_container(tmp_path / "a.gllm", specs, lambda _: np.zeros(1, np.uint8), metadata)
    assert left_in(tmp_path) == {}


def test_canonical_json() -> None:
    value = {"b": [1, 2.5, None, True, "é"], "a": {"y": 1, "x": -(2**70)}}
    text = dump_json(value, "here")
    assert text == '{"a":{"x":-1180591620717411303424,"y":1},"b":[1,2.5,null,true,"é"]}'.encode()
    assert parse_json(text, "here") == value
    for bad in (float("nan"), {1, 2}, "\ud800", b"bytes"):
        with pytest.raises(PlanError, match="here: cannot be written as JSON"):
            dump_json({"x": bad}, "here")
    with pytest.raises(PlanError, match=r"here: not a JSON object; expected .*, got a list"):
        parse_object(b"[]", "here")


def test_hash_file(tmp_path: Path) -> None:
    for size in (0, 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 7):
        content = random.Random(size).randbytes(size)
        (tmp_path / "f").write_bytes(content)
        assert hash_file(tmp_path / "f") == hashlib.sha256(content).hexdigest()
    with pytest.raises(CheckpointError, match="cannot be read"):
        hash_file(tmp_path)
