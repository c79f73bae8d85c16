"""How fast this machine reads memory: in native code where there is a compiler, else with NumPy."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from graphllm.compiler.native.build import built
from graphllm.errors import GraphLLMError
from graphllm.runtime.cores import physical_cores
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.device import Device
from graphllm.runtime.memory import available_bytes

SOURCE: Final = Path(__file__).with_name("streaming_read.cpp")
BUFFER: Final = 1 << 30  # bytes: far more than any cache
LEAST: Final = 64 << 20
_STEP: Final = 2 << 20  # bytes: a huge page, and what threads share out
_ROUNDS: Final = 5


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """The fastest of a few reads of a buffer.

    Attributes:
        bytes_per_second: of all threads together.
        how: ``native`` or ``numpy``.
        threads: that read at once.
        buffer: bytes they read; below some hundred MB a cache may have helped.
    """

    bytes_per_second: float
    how: str
    threads: int
    buffer: int


def read_bandwidth(threads: int = 0, *, buffer: int = 0, rounds: int = _ROUNDS) -> Bandwidth:
    """Measure it; about a second.

    Args:
        threads: 0 for one a physical core.
        buffer: bytes to read, rounded to whole huge pages; 0 for 1 GiB, or a quarter of what is free.
    """
    threads = threads or physical_cores()
    room = available_bytes()
    size = buffer or (BUFFER if room is None else min(BUFFER, room // 4))
    size = max(LEAST if not buffer else _STEP, size // _STEP * _STEP)
    try:
        library = _library()
    except GraphLLMError:
        return _numpy(threads, size, rounds)
    with _native_buffer(library, size) as start:
        if start is None:
            return _numpy(threads, size, rounds)
        orders = [partial(_read, read, start) for read in (library.read_in_order, library.read_in_rows)]
        seconds = min(_fastest(read, threads, size, rounds) for read in orders)
    return Bandwidth(size / seconds, "native", threads, size)


def bandwidth_of(device: Device, threads: int = 0) -> float:
    """Bytes a second of the memory that a device computes in, measured: a GPU's own is filled, this machine's is read.

    0 for a GPU that is only played.
    """
    if isinstance(device, CudaDevice):
        return 0.0 if device.name == "cuda-sim" else device.fill_rate()
    return read_bandwidth(threads).bytes_per_second


def reader_library() -> Path:
    """The native reader, built unless it was. Raises NativeError where there is no compiler."""
    return built(SOURCE.read_text(encoding="utf-8"))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(reader_library()))
    library.make_buffer.argtypes, library.make_buffer.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free_buffer.argtypes, library.free_buffer.restype = [ctypes.c_void_p], None
    for read in (library.read_in_order, library.read_in_rows):
        read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
    return library


def _read(read: Callable[[int, int], int], start: int, first: int, count: int) -> int:
    return read(start + first, count)


@contextmanager
def _native_buffer(library: ctypes.CDLL, size: int) -> Generator[int | None]:
    start = library.make_buffer(size)
    try:
        yield start
    finally:
        if start is not None:
            library.free_buffer(start)


def _numpy(threads: int, size: int, rounds: int) -> Bandwidth:
    words = np.ones(size // 8, np.uint64)

    def read(first: int, count: int) -> int:
        return int(np.bitwise_or.reduce(words[first // 8 : (first + count) // 8]))

    return Bandwidth(size / _fastest(read, threads, size, rounds), "numpy", threads, size)


def _fastest(read: Callable[[int, int], int], threads: int, size: int, rounds: int) -> float:
    """Seconds of the fastest of a few reads, each thread its part. ``read(first, bytes)`` lets go of Python's lock."""
    pages = size // _STEP
    threads = max(1, min(threads, pages))
    edges = [pages * i // threads * _STEP for i in range(threads + 1)]
    parts = [(a, b - a) for a, b in pairwise(edges)]
    times: list[float] = []

    def read_part(part: tuple[int, int]) -> int:
        return read(*part)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(read_part, parts))  # threads are started before the clock is
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(read_part, parts))
            times.append(time.perf_counter() - start)
    return min(times)
