"""What the machine, or the container, can still give."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphllm.runtime.memory import available_bytes

GB = 1 << 30


@pytest.fixture
def system(tmp_path: Path) -> Path:
    (tmp_path / "meminfo").write_text("MemTotal:  33554432 kB\nMemFree: 1 kB\nMemAvailable:   16777216 kB\n")
    return tmp_path / "meminfo"


def group(folder: Path, limit: str, taken: int, files: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{taken}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile {files}\ninactive_file {files - 7}\nactive_file 7\n")
    return folder


def test_of_the_machine(tmp_path: Path, system: Path) -> None:
    assert available_bytes(system, tmp_path / "none") == 16 * GB
    assert available_bytes(system, group(tmp_path, "max", GB, 7)) == 16 * GB


def test_of_a_container(tmp_path: Path, system: Path) -> None:
    """Pages of files are room."""
    assert available_bytes(system, group(tmp_path, str(8 * GB), 3 * GB, 7)) == 5 * GB + 7
    assert available_bytes(system, group(tmp_path, str(8 * GB), 8 * GB, 6 * GB)) == 6 * GB
    assert available_bytes(system, group(tmp_path, str(8 * GB), 9 * GB, 7)) == 0
    assert available_bytes(system, group(tmp_path, str(64 * GB), GB, 7)) == 16 * GB


def test_of_an_older_container(tmp_path: Path, system: Path) -> None:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(f"{4 * GB}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{3 * GB}\n")
    (folder / "memory.stat").write_text(f"cache 1\ninactive_file {GB}\nactive_file {GB}\n")
    assert available_bytes(system, tmp_path) == 3 * GB


def test_files_that_say_nothing(tmp_path: Path, system: Path) -> None:
    for text in ("", "\n", "max", "-1", "12x", "\xff"):
        (tmp_path / "memory.max").write_text(text)
        (tmp_path / "memory.current").write_text(text)
        assert available_bytes(system, tmp_path) == 16 * GB


def test_of_this_machine() -> None:
    room = available_bytes()
    assert room is None or 0 < room < 1 << 50
