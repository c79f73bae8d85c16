"""Writing is all or nothing, whatever the disk, the system or the caller does in the middle of it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import PlanError
from graphllm.plan import atomic_file
from graphllm.plan.container import Container, TensorSpec, write_container
from tests.small_containers import Tensors, left_in, write


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError, SystemExit])
@pytest.mark.parametrize("before", [None, b"the old plan"])
def test_nothing_is_left_when_reading_fails(tmp_path: Path, error: type[BaseException], before: bytes | None) -> None:
    path = tmp_path / "a.gllm"
    if before is not None:
        path.write_bytes(before)
    specs = [TensorSpec(f"t{i}", "u8", (64,)) for i in range(3)]

    def read(name: str) -> NDArray[Any]:
        if name == "t2":
            assert len(left_in(tmp_path)) == (2 if before else 1)
            raise error("stop")
        return np.zeros(64, np.uint8)

    with pytest.raises(error, match="stop"):
        write_container(path, specs, read, {})
    assert left_in(tmp_path) == ({} if before is None else {"a.gllm": before})


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "lseek", "open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_system_that_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(PlanError) as caught:
        write(tmp_path / "a.gllm", {"w": ("u8", np.zeros(64, np.uint8))})
    monkeypatch.undo()
    words = "not enough disk space; expected" if number == errno.ENOSPC else os.strerror(number)[1:]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == {}


def test_a_write_back_that_fails_early_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fsync, [0]

    def refuse_once(fd: int) -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(atomic_file, "_FLUSH_EVERY", 1000)
    monkeypatch.setattr(os, "fsync", refuse_once)
    tensors: Tensors = {f"t{i}": ("u8", np.zeros(640, np.uint8)) for i in range(9)}
    with pytest.raises(PlanError, match="nput/output error"):
        write(tmp_path / "a.gllm", tensors)
    assert left_in(tmp_path) == {}
    write(tmp_path / "a.gllm", tensors)
    assert calls[0] > 3
    with Container.open(tmp_path / "a.gllm") as container:
        container.verify()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.frombuffer(random.Random(1).randbytes(5000), np.uint8)
    with monkeypatch.context() as patch:
        whole = os.write
        patch.setattr(os, "write", lambda fd, data: whole(fd, data[:777]))
        write(tmp_path / "a.gllm", {"w": ("u8", array)})
    with Container.open(tmp_path / "a.gllm") as container:
        container.verify()
        assert container.array("w").tobytes() == array.tobytes()


def test_writes_are_whole_large_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really_write, large, starts = os.write, 2 << 20, list[int]()

    def write(fd: int, data: Any) -> int:
        starts.append(os.lseek(fd, 0, os.SEEK_CUR))
        return really_write(fd, data)

    monkeypatch.setattr(os, "write", write)
    rng = np.random.default_rng()
    sizes = [*rng.integers(1, 5 << 20, 8), large, 2 * large, 1, 3 * large - 1]
    parts = [rng.integers(0, 256, size, np.uint8).tobytes() for size in sizes]
    with atomic_file.replacing(tmp_path / "a.gllm", sum(map(len, parts))) as file:
        for part in parts:
            file.write(part)
        file.rewrite_start(b"x" * 100)
    assert (tmp_path / "a.gllm").read_bytes() == b"x" * 100 + b"".join(parts)[100:]
    assert len(starts) > 5
    assert all(start % large == 0 for start in starts)


def test_too_little_space_is_known_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**6, 10**6))
    spec = TensorSpec("w", "f32", (1000, 1000))
    with pytest.raises(PlanError, match=r"expected 4 MB, got 1 MB free in "):
        write_container(tmp_path / "a.gllm", [spec], lambda _: pytest.fail("was read"), {})
    assert left_in(tmp_path) == {}
    # Some network file systems report no sizes at all; that is not a full disk.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 0))
    write(tmp_path / "a.gllm", {"w": ("u8", np.zeros(64, np.uint8))})


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    mount, folder = shutil.which("mount"), tmp_path / "disk"
    folder.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors: Tensors = {"w": ("u8", np.zeros(1 << 20, np.uint8))}
    with pytest.raises(PlanError, match=r"expected 1\.05 MB, got 262 kB free"):
        write(tiny_disk / "a.gllm", tensors)
    # Another program may fill the disk after it was asked.
    real = shutil.disk_usage
    answers = iter([real("/")])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: next(answers, None) or real(folder))
    with pytest.raises(PlanError, match="not enough disk space"):
        write(tiny_disk / "a.gllm", tensors)
    assert left_in(tiny_disk) == {}


def test_targets_that_cannot_be_files(tmp_path: Path) -> None:
    tensors: Tensors = {"w": ("u8", np.zeros(64, np.uint8))}
    os.mkfifo(tmp_path / "fifo")
    for path, words in (
        (tmp_path, "got a folder"),
        (tmp_path / "fifo", "got a device, pipe or socket"),
        (Path(os.devnull), "got a device, pipe or socket"),
        (tmp_path / "none" / "a.gllm", "no such folder"),
        (tmp_path / "fifo" / "a.gllm", "cannot be written"),
        (tmp_path / "nul\0", "cannot be written"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        with pytest.raises(PlanError, match=words) as caught:
            write(path, tensors)
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(PlanError, match="permission denied"):
            write(tmp_path / "a.gllm", tensors)


def test_a_link_is_written_through_and_the_umask_is_kept(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.gllm").symlink_to(tmp_path / "there" / "a.gllm")
    old = os.umask(0o027)
    try:
        write(tmp_path / "link.gllm", {"w": ("u8", np.zeros(64, np.uint8))})
    finally:
        os.umask(old)
    assert (tmp_path / "link.gllm").is_symlink()
    assert (tmp_path / "there" / "a.gllm").stat().st_mode & 0o777 == 0o640
    assert len(left_in(tmp_path / "there")) == 1


def test_an_open_plan_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.gllm"
    write(path, {"w": ("u8", np.full(64, 1, np.uint8))})
    with Container.open(path) as container:
        write(path, {"w": ("u8", np.full(9, 2, np.uint8))})
        assert container.array("w").tolist() == [1] * 64
