"""Damaged, foreign and hostile files: each is refused in one line, though its digest may be right."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.errors import PlanError
from graphllm.plan import header
from graphllm.plan.container import PLAN_VERSION, Container
from tests.small_containers import refused, small, write

ZEROS = b"0" * 64


def sealed(entries: str | bytes, data: bytes = b"", pad: bool = True) -> bytes:
    """A file with any header, and the right digest for it: what a hostile writer can make."""
    text = entries.encode() if isinstance(entries, str) else entries
    if pad:
        text += b" " * (-(8 + len(text)) % 64)
    raw = struct.pack("<Q", len(text)) + text
    return raw.replace(ZEROS, hashlib.sha256(raw).hexdigest().encode(), 1) + data


def hostile(tensors: dict[str, Any] | str, data: bytes, count: int | None = None, version: str = "1") -> bytes:
    """A sealed file with honest metadata around given tensor entries."""
    body = json.dumps(tensors)[1:-1] if isinstance(tensors, dict) else tensors
    digests = "0" * 64 * (len(tensors) if count is None else count)
    ours = {"digest": ZEROS.decode(), "format": "gllm", "version": version, "blake3": digests}
    text = '{"__metadata__":' + json.dumps(ours, separators=(",", ":")) + ("," + body if body else "") + "}"
    return sealed(text, data)


def entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    content = small(tmp_path / "a.gllm")
    for at in range(len(content)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << (at % 8)
        refused(tmp_path / "b.gllm", bytes(damaged))


def test_any_missing_end_is_noticed(tmp_path: Path) -> None:
    content = small(tmp_path / "a.gllm")
    for length in range(len(content)):
        refused(tmp_path / "b.gllm", content[:length])


def test_appended_bytes_and_swapped_tensors_are_noticed(tmp_path: Path) -> None:
    content = small(tmp_path / "a.gllm")
    assert "too long" in refused(tmp_path / "b.gllm", content + b"\0")
    data = 8 + struct.unpack("<Q", content[:8])[0]
    f32, i32 = content[data : data + 60], content[data + 60 : data + 120]
    assert "'f32' is damaged" in refused(tmp_path / "b.gllm", content[:data] + i32 + f32 + content[data + 120 :])


GOOD = entry("U8", [64], 0, 64)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": GOOD, "b": entry("U8", [64], 32, 96)}, "wrong place"),  # overlap
        ({"a": GOOD, "b": entry("U8", [64], 64, 192)}, "wrong place"),  # longer than its shape
        ({"a": GOOD, "b": entry("U8", [64], 128, 192)}, "wrong place"),  # hole
        ({"b": entry("U8", [64], 64, 128), "a": GOOD}, "wrong place"),  # order
        ({"a": GOOD, "b": entry("U8", [64], 128, 64)}, "wrong place"),
        ({"a": GOOD, "b": entry("U8", [64], -64, 0)}, "damaged entry"),
        ({"a": GOOD, "b": entry("U8", [192], 64, 256)}, "cut short"),
        ({"a": GOOD}, "too long"),
        ({"a": entry("U8", [1], 0, 1), "b": entry("F32", [1], 1, 5)}, "not aligned"),
        ({"a": entry("U8", [1], 0, 1), "b": entry("U8", [64], 1, 65)}, "not aligned"),
        ({"a": entry("U8", [2**40, 2**40], 0, 128)}, "impossible shape"),
        ({"a": entry("U8", [2**58], 0, 2**58)}, "cut short"),
        ({"a": entry("F32", [2**61, 2], 0, 2**64)}, "damaged entry"),
        ({"a": entry("U8", [2**58, 0, 2**58], 0, 0)}, "impossible shape"),
        ({"a": entry("U8", [10**4000], 0, 128)}, "damaged entry"),
        ({"a": entry("U8", [1] * 9 + [128], 0, 128)}, "at most 8 dimensions"),
        ({"a": entry("U8", [128.0], 0, 128)}, "damaged entry"),
        ({"a": entry("U8", [True, 128], 0, 128)}, "damaged entry"),
        ({"a": entry("U8", [128], False, 128)}, "damaged entry"),
        ({"a": entry("F64", [16], 0, 128)}, "damaged entry"),
        ({"a": entry("U8", [128], 0, 128) | {"extra": 1}}, "damaged entry"),
        ({"a": {"dtype": ["U8"], "shape": [128], "data_offsets": [0, 128]}}, "damaged entry"),
        ({"a": {"dtype": "U8", "shape": {}, "data_offsets": [0, 128]}}, "damaged entry"),
        ({"a": {"dtype": "U8", "shape": [128], "data_offsets": [0, 128, 1]}}, "damaged entry"),
        ({"a": [1]}, "damaged entry"),
        ({"a\n\x1b[31m": entry("U8", [128], 0, 128)}, "not a name"),
        ({"": entry("U8", [128], 0, 128)}, "not a name"),
        ({"a" * 10_000: entry("U8", [128], 0, 128)}, "not a name"),
    ],
)
def test_headers_that_lie_are_refused_though_their_digest_is_right(
    tmp_path: Path, tensors: dict[str, Any], words: str
) -> None:
    assert words in refused(tmp_path / "b.gllm", hostile(tensors, bytes(128)))


def test_json_that_is_not_strict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.gllm"
    one = json.dumps({"a": GOOD})[1:-1]
    assert "appears twice" in refused(path, hostile(f"{one},{one}", bytes(64), 2))
    assert "appears twice" in refused(path, hostile('"a":{"dtype":"U8","dtype":"U8"}', b"", 1))
    assert "nested deeper" in refused(path, hostile('"a":' + "[" * 10_000 + "]" * 10_000, b"", 1))
    assert "nested deeper" in refused(path, hostile('"a":' + '{"a":' * 10_000 + "1" + "}" * 10_000, b"", 1))
    assert "nested deeper" in refused(path, hostile('"a":' + "[" * 70 + "]" * 70, b"", 1))
    assert "NaN is not JSON" in refused(path, hostile('"a":NaN', b"", 1))
    assert "too large" in refused(path, hostile('"a":1e999', b"", 1))
    assert "not valid JSON" in refused(path, hostile('"a":' + "9" * 5000, b"", 1))
    assert "not valid JSON" in refused(path, hostile('"a":"\\ud800"', b"", 1))
    assert "not valid JSON" in refused(path, hostile('"a":', b"", 1))
    start = b'{"__metadata__":{"digest":"' + ZEROS + b'"'
    assert "not valid JSON" in refused(path, sealed(start + b',"\xff":""}}'))
    assert "not valid JSON" in refused(path, sealed(start))


def test_metadata_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.gllm"
    start = '{"__metadata__":{"digest":"' + "0" * 64 + '"'
    assert "format 'gllm'" in refused(path, sealed(start + "}}"))
    assert "format 'gllm'" in refused(path, sealed(start + ',"format":"pt","version":"1","blake3":""}}'))
    assert "strings" in refused(path, sealed(start + ',"format":"gllm","version":"1"}}'))
    assert "strings" in refused(path, sealed(start + ',"format":"gllm","version":"1","blake3":3}}'))
    assert "strings" in refused(path, sealed(start + ',"format":"gllm","version":"1","blake3":"","x":{}}}'))
    assert "digests" in refused(path, sealed(start + ',"format":"gllm","version":"1","blake3":"00"}}'))
    assert "digests" in refused(path, hostile({"a": GOOD}, bytes(64), 2))
    assert "multiple of 64" in refused(
        path, sealed(start + ',"format":"gllm","version":"1","blake3":""}}' + " " * 5, pad=False)
    )


@pytest.mark.parametrize("version", ["2", "999999999"])
def test_a_newer_version_is_named(tmp_path: Path, version: str) -> None:
    message = refused(tmp_path / "b.gllm", hostile({}, b"", version=version))
    assert f"newer graphllm (plan version {version}, this one reads up to {PLAN_VERSION})" in message


@pytest.mark.parametrize("version", ["", "0", "-1", "1.0", "x", "\u0661", "9" * 5000, "2\n"])
def test_a_version_that_is_no_number_is_damage(tmp_path: Path, version: str) -> None:
    assert "damaged header" in refused(tmp_path / "b.gllm", hostile({}, b"", version=version))


def test_files_that_are_no_plans_say_so(tmp_path: Path) -> None:
    path = tmp_path / "b.gllm"
    for length in (2**63, 2**64 - 1, header.MAX_HEADER + 1, 10_000):
        assert "not a plan" in refused(path, struct.pack("<Q", length) + b"{}")
    assert "not a plan" in refused(path, b"")
    assert "not a plan" in refused(path, b"PK\3\4")
    assert "not a plan" in refused(path, bytes(1000))
    assert "some other kind" in refused(path, struct.pack("<Q", 5) + b"hello")
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"w": np.zeros(4, np.float32)}, path, {"format": "pt"})
    assert "a safetensors file that graphllm did not write" in refused(path)


def test_places_that_are_no_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "got a folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "none.gllm")
    assert "cannot be opened" in refused(tmp_path / "nul\0.gllm")
    assert refused(tmp_path / "new\nline.gllm")
    os.mkfifo("fifo")
    assert "got a device, pipe or socket" in refused(Path("fifo"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert "got a device, pipe or socket" in refused(Path("socket"))
    assert "got a device, pipe or socket" in refused(Path(os.devnull))


def test_verify_names_the_first_damaged_of_many_large_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.gllm"
    write(path, {f"t{i}": ("u8", np.full(1 << 20, i, np.uint8)) for i in range(12)})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    content[-(5 << 20)] ^= 1
    path.write_bytes(content)
    with Container.open(path) as container:
        container.verify(["t0", "t6", "t10"])
        with pytest.raises(PlanError, match="'t7' is damaged"):
            container.verify()
