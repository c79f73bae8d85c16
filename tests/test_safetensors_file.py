"""safetensors headers: what the reference library writes is read as views; whatever is wrong is refused in one line."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from graphllm.errors import CheckpointError
from graphllm.frontends.safetensors_file import read_safetensors
from tests.checkpoint_writers import DTYPES, write_safetensors


def entry(dtype: Any = "F32", shape: Any = (2, 3), begin: Any = 0, end: Any = 24) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_come_out_as_the_library_wrote_them(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(5)
    path = tmp_path / "model.safetensors"
    shapes = {"a": (3, 5), "b": (7,), "c": (1, 1), "scalar": ()}
    tensors = {name: rng.standard_normal(shape).astype(DTYPES[dtype]) for name, shape in shapes.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    file = read_safetensors(path)
    assert file.metadata == {"format": "pt"}
    assert set(file.entries) == set(tensors)
    for name, tensor in tensors.items():
        source = file.source(name)
        values = source.read()
        assert (source.source, source.shape, values.dtype) == (name, shapes[name], DTYPES[dtype])
        assert source.dtype == {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[dtype]
        assert values.tobytes() == tensor.tobytes()
        assert not values.flags.writeable


def test_data_at_odd_offsets_is_read(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    header = json.dumps({"byte": entry("U8", [1], 0, 1), "x": entry("F32", [2, 3], 1, 25)}).encode()
    header += b" " * (1 - len(header) % 2)
    write_safetensors(path, header, b"\7" + values.tobytes())
    np.testing.assert_array_equal(read_safetensors(path).source("x").read(), values)


def test_reading_a_header_reads_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = 1 << 30
    write_safetensors(path, {"x": entry("F32", [size // 4], 0, size)})
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)  # a hole: no disk is used
    tracemalloc.start()
    source = read_safetensors(path).source("x")
    view = source.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert view[-1] == 0
    assert peak < 1 << 20


def test_other_dtypes_are_refused_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_safetensors(path, {"ids": entry("I64", [2], 0, 16), "new": entry("F3_X", [9], 16, 20)}, bytes(20))
    file = read_safetensors(path)
    with pytest.raises(CheckpointError, match="ids has dtype I64; expected one of F32, F16, BF16"):
        file.source("ids")
    with pytest.raises(CheckpointError, match="new has dtype F3_X; expected one of"):
        file.source("new")


WRONG_ENTRIES = [
    (entry(end=25), "25 bytes; expected 24 for F32"),
    (entry(shape=[2, 2]), "24 bytes; expected 16 for F32"),
    (entry(shape=[2**40, 2**40]), "24 bytes; expected"),
    (entry(shape=[-2, -3]), "shape is .* expected at most 16 sizes of 0 or more"),
    (entry(shape=[2.0, 3]), "shape is .* expected at most"),
    (entry(shape=[True, 6]), "shape is .* expected at most"),
    (entry(shape=[1] * 17), "shape is .* expected at most"),
    (entry(shape="23"), "shape is '23'; expected"),
    (entry(begin=-24, end=0), r"data_offsets is \[-24, 0\]; expected"),
    (entry(begin=24, end=0), r"data_offsets is \[24, 0\]; expected \[begin, end\]"),
    (entry(end=2**63), "data ends at byte 9223372036854775808; expected at most 24"),
    (entry(end=None), "data_offsets is .*; expected"),
    ({"dtype": "F32", "shape": [2, 3], "data_offsets": [0]}, "data_offsets is .*; expected"),
    ({"shape": [2, 3], "data_offsets": [0, 24]}, "dtype is None; expected a string"),
    ({"dtype": 32, "shape": [2, 3], "data_offsets": [0, 24]}, "dtype is 32; expected a string"),
    ([0, 24], "expected an object with dtype"),
    (None, "expected an object with dtype"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG_ENTRIES)
def test_wrong_entries(tmp_path: Path, wrong: Any, message: str) -> None:
    path = tmp_path / "model"
    write_safetensors(path, {"x": wrong}, bytes(25 if "25 bytes" in message else 24))
    with pytest.raises(CheckpointError, match=rf"^[^\n]*model: tensor 'x'[^\n]*{message}"):
        read_safetensors(path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"x": entry(), "y": entry(begin=20, end=44)}, 44, "tensor 'y' overlaps tensor 'x'; expected it at byte"),
        ({"x": entry(), "y": entry()}, 24, "tensor 'y' overlaps tensor 'x'"),
        ({"x": entry(), "y": entry(begin=28, end=52)}, 52, "tensor 'y' leaves a hole after tensor 'x'"),
        ({"x": entry(begin=4, end=28)}, 28, "tensor 'x' leaves a hole after the header"),
        ({"x": entry()}, 30, "bytes; expected .*, where the last tensor ends"),
        ({"x": entry()}, 20, "data ends at byte 24; expected at most 20"),
        (b'{"x":1,"x":2}', 0, "the key 'x' appears twice"),
        (b'{"x":', 5, "not valid JSON"),
        (b"[]", 0, "not a JSON object"),
        (b"{\xff}", 0, "not valid JSON"),
        (b'{"x":' + b"[" * 100000 + b"]" * 100000 + b"}", 0, "nested"),
        (b'{"x":' + b"9" * 5000 + b"}", 0, "not valid JSON"),
        ({"__metadata__": {"format": 1}}, 0, "__metadata__; expected an object of strings"),
        ({"__metadata__": []}, 0, "__metadata__; expected an object of strings"),
    ],
)
def test_wrong_headers(tmp_path: Path, header: Any, data: int, message: str) -> None:
    path = tmp_path / "model"
    write_safetensors(path, header, bytes(data))
    with pytest.raises(CheckpointError, match=rf"^[^\n]*model[^\n]*{message}[^\n]*$"):
        read_safetensors(path)


@pytest.mark.parametrize("length", [0, 1, 1000, 100_000_001, 2**31, 2**63, 2**64 - 1])
def test_a_length_past_the_file_allocates_nothing(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model"
    write_safetensors(path, {"x": entry()}, bytes(24), length=length)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=f"expected a header of 2 to .* got one of {length} in a file of"):
        read_safetensors(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_every_truncation_and_no_byte_of_the_header_can_crash(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_file({"x": np.ones((2, 3), np.float32), "y": np.ones(4, ml_dtypes.bfloat16)}, path, metadata={"a": "b"})
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
            read_safetensors(path)
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(3)
    for at in range(start):
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        # A changed name or a changed dtype of the same size may well be legal; anything but our own error is a crash.
        with contextlib.suppress(CheckpointError):
            file = read_safetensors(path)
            for name in file.entries:
                file.source(name).read()
