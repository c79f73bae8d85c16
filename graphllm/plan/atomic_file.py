"""A file that appears under its name complete, or not at all.

It is written under an unpredictable name beside the final one, flushed to the disk, and renamed. Whatever ends the
writing early (disk full, an exception of the caller, Ctrl-C) removes the temporary file and leaves the old one.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from graphllm.errors import PlanError
from graphllm.plan.place import refusal, shown, size_text

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_FLUSH_EVERY = 64 << 20
_LARGE_PAGE = 2 << 20  # of x86-64, and of AArch64 with pages of 4 kB
_FULL = (errno.ENOSPC, errno.EDQUOT)


class AtomicFile:
    """The open end of `replacing`: writes in order, and once more at the start.

    What has been written is sent to the disk behind the writer's back; a disk that is left idle until the end makes
    writing a large file take nearly twice as long. It is written a large page at a time: file systems that keep what
    they are given in pieces as large then map it as large pages, whose memory is read faster (1.4 times, measured).
    """

    def __init__(self, fd: int, refusals: Callable[[], AbstractContextManager[None]], flusher: Executor) -> None:
        self._fd, self._refusals, self._flusher = fd, refusals, flusher
        self._flush: Future[None] | None = None
        self._unflushed = 0
        self._begun = bytearray()  # a large page that is not full

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, which must be contiguous bytes."""
        rest = memoryview(data)
        while rest:
            if self._begun or len(rest) < _LARGE_PAGE:
                count = min(_LARGE_PAGE - len(self._begun), len(rest))
                self._begun += rest[:count]
                if len(self._begun) == _LARGE_PAGE:
                    self._send_begun()
            else:
                count = len(rest) // _LARGE_PAGE * _LARGE_PAGE
                self._send(rest[:count])
            rest = rest[count:]

    def _send_begun(self) -> None:
        with memoryview(self._begun) as begun:
            self._send(begun)
        self._begun.clear()

    def _send(self, rest: memoryview) -> None:
        self._unflushed += len(rest)
        with self._refusals():
            # One write may take less than it was given, on a full disk and above 2 GB.
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            if self._unflushed >= _FLUSH_EVERY and (self._flush is None or self._flush.done()):
                self._settle()
                self._unflushed = 0
                self._flush = self._flusher.submit(os.fsync, self._fd)

    def rewrite_start(self, data: bytes) -> None:
        """Replace the first bytes. Nothing may be appended after this."""
        self._send_begun()
        with self._refusals():
            os.lseek(self._fd, 0, os.SEEK_SET)
        self._send(memoryview(data))

    def finish(self) -> None:
        """Return when all of it is on the disk."""
        self._send_begun()
        with self._refusals():
            self._settle()
            os.fsync(self._fd)

    def _settle(self) -> None:
        # The system tells of a failed write-back once, to whoever asks first: its answer must not get lost.
        if self._flush is not None:
            self._flush.result()


@contextmanager
def replacing(path: str | os.PathLike[str], size: int) -> Generator[AtomicFile]:
    """Write `size` bytes to `path`, atomically; PlanError before anything is written when they cannot fit."""
    from concurrent.futures import ThreadPoolExecutor

    where = shown(path)
    final = _target(path, where)
    folder = final.parent
    _check_space(folder, where, size)
    temporary = folder / f".graphllm-{os.urandom(8).hex()}.tmp"
    refusals = partial(_refusals, where, folder, size)
    try:
        with refusals():
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with ThreadPoolExecutor(1) as flusher:
                file = AtomicFile(fd, refusals, flusher)
                yield file
                file.finish()
        finally:
            os.close(fd)
        with refusals():
            os.replace(temporary, final)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)


@contextmanager
def _refusals(where: str, folder: Path, size: int) -> Generator[None]:
    """The system's refusal to write, as one line. Only around our own calls: a caller's errors stay what they are."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise PlanError(_full(where, folder, size)) from None
        raise PlanError(f"{where}: cannot be written; {refusal(error)}") from None


def _target(path: str | os.PathLike[str], where: str) -> Path:
    # A link is written through, as every other program does. A device or a FIFO would be replaced by the rename.
    try:
        final = Path(os.path.realpath(path))
        mode = final.stat().st_mode
    except FileNotFoundError:
        final = Path(os.path.realpath(path))
        if not final.parent.is_dir():
            raise PlanError(f"{where}: cannot be written; no such folder: {shown(final.parent)}") from None
        return final
    except (OSError, ValueError) as error:
        raise PlanError(f"{where}: cannot be written; {refusal(error)}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise PlanError(f"{where}: cannot be written; expected the name of a file, got {kind}")
    return final


def _check_space(folder: Path, where: str, size: int) -> None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return  # the folder cannot be asked; writing will tell
    # Some network file systems know no sizes and report nothing at all.
    if usage.total and usage.free < size:
        raise PlanError(_full(where, folder, size))


def _full(where: str, folder: Path, size: int) -> str:
    try:
        free = f"{size_text(shutil.disk_usage(folder).free)} free"
    except OSError:
        free = "too little left"
    return f"{where}: not enough disk space; expected {size_text(size)}, got {free} in {shown(folder)}"


def _sync_folder(folder: Path) -> None:
    # The rename has happened; this only makes it survive a power cut, and not every system can sync a folder.
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
