"""The strict reader of PyTorch's files: tensors and plain containers; everything else is refused and nothing is run."""

from __future__ import annotations

import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.errors import CheckpointError
from graphllm.frontends.torch_file import read_torch
from graphllm.frontends.torch_pickle import PickleError, read_pickle
from tests.torch_writer import Shared, torch_bytes, zip_bytes


def test_plain_values_come_back() -> None:
    value = {
        "none": None,
        "flags": [True, False],
        "numbers": [0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**40, -(2**60), 1.5, -1e300],
        "text": ["", "x" * 300, "é中😀"],
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "bytes": b"abc",
        3: {"nested": [{}, [], [[]]]},
        "ordered": OrderedDict(a=1),
    }
    for protocol in (2, 3, 4, 5):
        if protocol == 2:
            value.pop("bytes", None)
        expected = dict(value)
        assert read_pickle(pickle.dumps(value, protocol)) == expected
        value["bytes"] = b"abc"


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch hacked",)


class Getattr:
    def __reduce__(self) -> Any:
        return getattr, ("text", "upper")


class Evaluated:
    def __reduce__(self) -> Any:
        return eval, ("__import__('os').mkdir('hacked')",)


@pytest.mark.parametrize("evil", [Evil, Getattr, Evaluated])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: type, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.pth").write_bytes(zip_bytes({"data.pkl": pickle.dumps({"model": evil()}, protocol)}))
    with pytest.raises(CheckpointError, match=r"asks for '[a-z_]+ [a-z]+'; expected tensors .* nothing was run$"):
        read_torch(Path("m.pth"))
    assert os.listdir(".") == ["m.pth"]


def dag() -> bytes:
    """A tuple of two of a tuple of two …, forty deep, as a dictionary key."""
    out = b"\x80\x02}" + b")"
    for i in range(40):
        out += b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86"
    return out + b"K\x01s."


BOMBS: dict[str, tuple[bytes, str]] = {
    "memo": (b"\x80\x02}r\xff\xff\xff\xff.", "^$"),  # an index, which costs nothing here
    "hash": (dag(), "dictionary key that is a tuple"),
    "deep": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "^$"),
    "long": (b"\x80\x02\x8b\xff\xff\xff\x7f", "instruction b'.x8b'"),
    "long1": (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "whole number of 255 bytes"),
    "text": (b"\x80\x02X\xff\xff\xff\xff", "ends early"),
    "text8": (b"\x80\x04\x8d" + b"\xff" * 8, "ends early"),
    "frame": (b"\x80\x04\x95" + b"\xff" * 8, "protocol"),
    "protocol": (b"\x80\x09.", "protocol"),
    "decimal": (b"\x80\x02L" + b"9" * 10000 + b"L\n.", "instruction b'L'"),
    "no value": (b"\x80\x02.", "other than one value"),
    "two values": (b"\x80\x02NN.", "other than one value"),
    "empty": (b"", "ends early"),
    "pop": (b"\x80\x02s.", "empty stack"),
    "mark": (b"\x80\x02t.", "no mark"),
    "below mark": (b"\x80\x02N(\x85.", "empty stack"),
    "memo of nothing": (b"\x80\x02h\x05.", "nothing was kept under 5"),
    "odd items": (b"\x80\x02}(Nu.", "without a value"),
    "append to none": (b"\x80\x02NNa.", "expected a list"),
    "call of text": (b"\x80\x02X\x01\x00\x00\x00a)R.", "call of a str"),
    "long name": (b"\x80\x02c" + b"a" * 1000, "name without an end"),
    "bad text": (b"\x80\x02X\x01\x00\x00\x00\xff.", "not UTF-8"),
    "storage": (b"\x80\x02NQ.", "not a storage"),
    "many": (b"\x80\x02" + b"N" * 1_000_001 + b".", "more than 1000000 instructions"),
    "instance": (b"\x80\x02(ios\nsystem\n.", "instruction b'i'"),
    "object": (b"\x80\x02(cos\nsystem\no.", "asks for 'os system'"),
    "extension": (b"\x80\x02\x82\x01.", "instruction"),
    "builtins": (b"\x80\x02c__builtin__\neval\n.", "asks for '__builtin__ eval'"),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs(kind: str) -> None:
    data, message = BOMBS[kind]
    began = time.process_time()
    if message == "^$":
        read_pickle(data)
    else:
        with pytest.raises(PickleError, match=message):
            read_pickle(data)
    assert time.process_time() - began < 20


def test_a_pickle_cut_anywhere_is_refused() -> None:
    whole = pickle.dumps({"a": [1, 2.5, "text", (None, True)], 7: {"b": 2**40}}, 4)
    for length in range(len(whole)):
        with pytest.raises(PickleError):
            read_pickle(whole[:length])


def saved(**tensors: Any) -> bytes:
    return torch_bytes(OrderedDict(tensors))


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "m").write_bytes(saved(a=array, b=Shared(array, 4, (2, 4)), s=np.array(2.5, np.float32)))
    file = read_torch(tmp_path / "m")
    np.testing.assert_array_equal(file.source("a").read(), array)
    np.testing.assert_array_equal(file.source("b").read(), array[1:])
    assert file.source("s").read() == 2.5
    assert not file.source("a").read().flags.writeable


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Shared(np.zeros(12, np.float32), 5, (2, 4)), "inside a storage of 12"),
        (Shared(np.zeros(12, np.float32), 0, (2**40, 2**40)), "inside a storage of 12"),
        (Shared(np.zeros(12, np.float32), -1, (2,)), "whole numbers of 0 or more"),
        (Shared(np.zeros(12, np.float32), 0, (3, 4), (1, 3)), "a is not row-major"),
        (Shared(np.zeros(12, np.float32), 0, (12,), (0,)), "a is not row-major"),
        (np.zeros(3, np.int64), "a has dtype i64; expected one of f32, f16, bf16"),
    ],
)
def test_tensors_that_are_not_ours(tmp_path: Path, tensor: Any, message: str) -> None:
    (tmp_path / "m").write_bytes(saved(a=tensor))
    with pytest.raises(CheckpointError, match=message):
        read_torch(tmp_path / "m").source("a")


def test_storages_are_as_large_as_the_pickle_says(tmp_path: Path) -> None:
    whole = zipfile.ZipFile(_file(tmp_path, saved(a=np.arange(4, dtype=np.float32))))
    entries = {name.removeprefix("archive/"): whole.read(name) for name in whole.namelist()}
    for content in (b"", bytes(15), bytes(17)):
        (tmp_path / "n").write_bytes(zip_bytes(entries | {"data/0": content}))
        with pytest.raises(CheckpointError, match="expected 16 bytes under data/0"):
            read_torch(tmp_path / "n").source("a")
    del entries["data/0"]
    (tmp_path / "n").write_bytes(zip_bytes(entries))
    with pytest.raises(CheckpointError, match="got no such entry"):
        read_torch(tmp_path / "n").source("a")


def _file(folder: Path, content: bytes) -> Path:
    path = folder / "m"
    path.write_bytes(content)
    return path


def test_compressed_files_are_refused(tmp_path: Path) -> None:
    """A zip bomb among them: a gigabyte of zeros in a megabyte."""
    path = _file(tmp_path, zip_bytes({"data.pkl": bytes(1 << 24)}, compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        read_torch(path)


def test_damaged_zip_files_are_refused(tmp_path: Path) -> None:
    whole = saved(a=np.arange(40, dtype=np.float32))
    path = tmp_path / "m"
    rng = np.random.default_rng(0)
    for length in rng.integers(1, len(whole), 80):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
            read_torch(path)
    for _ in range(400):
        data = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        with suppress(CheckpointError):
            file = read_torch(path)
            if "a" in file.entries:  # else the flip was in the name
                file.source("a").read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_bytes({"other": b""}), "without FOLDER/data.pkl"),
        (zip_bytes({"data.pkl": b"N."}, folder="a/b"), "without FOLDER/data.pkl"),
        (zip_bytes({"data.pkl": b"N.", "byteorder": b"big"}), "big-endian"),
        (b"PK\x03\x04" + bytes(100), "damaged zip file"),
        (bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + bytes(40), "old torch.save makes .* never opened"),
        (zip_bytes({"data.pkl": b"N" * ((16 << 20) + 1)}), "expected at most 16777216"),
    ],
)
def test_other_zip_files(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_torch(_file(tmp_path, content))


def test_entries_twice_and_directories_that_lie(tmp_path: Path) -> None:
    whole = zip_bytes({"data.pkl": b"N."})
    path = _file(tmp_path, whole)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", b"N.")
    with pytest.raises(CheckpointError, match="is there twice"):
        read_torch(path)
    at = whole.rindex(b"PK\x01\x02")
    for offset, packed in ((24, struct.pack("<I", 2**31)), (42, struct.pack("<I", 7)), (42, struct.pack("<I", 2**31))):
        data = bytearray(whole)
        data[at + offset : at + offset + 4] = packed
        if offset == 24:
            data[at + 20 : at + 24] = packed
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"ends at byte|no header at byte|damaged"):
            read_torch(path)
