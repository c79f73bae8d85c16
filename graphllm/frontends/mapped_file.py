"""A file mapped into memory, of which tensors are views.

Every reader opens files here, so that a FIFO, a device or a folder given by mistake is refused before anything blocks,
and no reader copies what it only has to look at.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import CheckpointError

NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A whole regular file, read-only. Views keep the map alive; the map needs no closing."""

    path: Path
    data: mmap.mmap

    @property
    def size(self) -> int:
        return len(self.data)

    def view(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """A read-only array at a byte offset, not necessarily aligned. The caller has checked the range."""
        assert 0 <= offset <= offset + prod(shape) * dtype.itemsize <= self.size
        return np.ndarray(shape, dtype, buffer=self.data, offset=offset)

    def release(self) -> None:
        """Let the system take back the pages in memory. Views stay good: what they touch is read again."""
        if hasattr(self.data, "madvise"):  # not on Windows
            self.data.madvise(mmap.MADV_DONTNEED)


def open_descriptor(path: Path) -> int:
    """A descriptor of a regular, non-empty file; a CheckpointError for anything else."""
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer; asking before opening would leave a race.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    try:
        status = os.fstat(descriptor)
        kind = next((name for is_kind, name in NOT_FILES if is_kind(status.st_mode)), None)
        if kind:
            raise CheckpointError(f"{path}: {kind}; expected a file")
        if status.st_size == 0:
            raise CheckpointError(f"{path}: an empty file; expected a checkpoint")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_file(path: Path) -> MappedFile:
    """Map a regular, non-empty file."""
    descriptor = open_descriptor(path)
    try:
        return MappedFile(path, mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    finally:
        os.close(descriptor)


def unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    """The system's refusal, in our words. A ValueError is a path that no file can have."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CheckpointError(f"{path}: no such file or folder; expected a checkpoint")
    if isinstance(error, PermissionError):
        return CheckpointError(f"{path}: no permission to read it; expected a readable checkpoint")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(f"{str(path)!r}: cannot be read ({reason}); expected a checkpoint")
