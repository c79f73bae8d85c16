"""Weights on their way to a GPU: a thread reads them into pinned buffers while full ones are being copied.

To the copy the weights are one stretch of bytes, as they will lie in the GPU's memory: a buffer ends where it is full.
The file is read once, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import Queue
from threading import Event, Thread
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.runtime.cuda.driver import Address, Bytes, Driver
from graphllm.runtime.cuda.places import offsets, total

BUFFER: Final = 16 << 20  # bytes: the copy of one takes longer than to ask for it
BUFFERS: Final = 3  # one is read into, one is copied, one waits

Progress = Callable[[int, int], None]  # bytes done, bytes in all


def upload(
    driver: Driver,
    to: Address,
    sizes: Sequence[int],
    read: Callable[[int], NDArray[Any]],
    progress: Progress = lambda done, of: None,
    buffer: int = BUFFER,
) -> None:
    """Copy weights of these sizes to where they lie one after another from ``to``.

    Args:
        read: a weight by its number, as it is stored.
        buffer: bytes of each of the buffers.

    Raises:
        DeviceError: the device refuses.
        Whatever ``read`` raises.
    """
    length = total(sizes)
    buffers = [driver.host(min(buffer, length)) for _ in range(min(BUFFERS, -(-length // buffer)))]
    free: Queue[Bytes] = Queue()
    full: Queue[tuple[Bytes, int] | BaseException | None] = Queue()
    stop = Event()
    for one in buffers:
        free.put(one)

    def fill() -> None:
        try:
            for held in _filled(sizes, read, free, stop):
                full.put(held)
            full.put(None)
        except BaseException as error:  # told where the others wait for it
            full.put(error)

    reader = Thread(target=fill, name="weights", daemon=True)
    reader.start()
    done = 0
    copying: list[tuple[Any, Bytes]] = []
    try:
        while (item := full.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            held, count = item
            driver.upload(Address(to + done), held[:count])
            copying.append((driver.mark(), held))
            done += count
            if len(copying) == len(buffers) or full.empty():
                mark, back = copying.pop(0)
                driver.wait(mark)
                free.put(back)
            progress(done, length)
        for mark, _ in copying:
            driver.wait(mark)
    finally:
        stop.set()
        for one in buffers:  # it may wait for one
            free.put(one)
        reader.join()


def _filled(sizes: Sequence[int], read: Callable[[int], NDArray[Any]], free: Queue[Bytes], stop: Event) -> Any:
    """Buffers with the next bytes of the stretch, and how many those are."""
    length, starts = total(sizes), offsets(sizes)
    held, begin = free.get(), 0  # where in the stretch the buffer begins
    for number, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        if size == 0:
            continue
        content = np.ascontiguousarray(read(number)).reshape(-1).view(np.uint8)
        assert len(content) == size
        taken = 0
        while taken < size:
            if stop.is_set():
                return
            at = start + taken - begin
            if at >= len(held):  # full, but for padding
                yield held, len(held)
                begin, held = begin + len(held), free.get()
                continue
            part = min(size - taken, len(held) - at)
            held[at : at + part] = content[taken : taken + part]
            taken += part
    while begin < length and not stop.is_set():
        count = min(len(held), length - begin)
        yield held, count
        begin += count
        if begin < length:
            held = free.get()
