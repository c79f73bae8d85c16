"""What the CUDA device asks of whoever runs its kernels: a GPU by its driver, or a simulator of one.

Everything is done in one stream, in the order it was asked for, and need not have been done when the method returns:
uploads and downloads work on memory of ``host``, which must be left alone until a ``mark`` made behind them has been
waited for. A driver has its kernels before a device is given it, and knows them by name.

Every method raises DeviceError, in words, when the machine refuses; one that lost its device raises it ever after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

Address = NewType("Address", int)  # of a byte in the device's memory
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reach:
    """Bytes that a launch may read, or write: a driver that looks at every access holds it to that."""

    address: Address
    size: int
    written: bool


@dataclass(frozen=True, slots=True)
class Resolved:
    """A launch with its addresses: ``arguments`` and then ``numbers`` in the order of the kernel's parameters, pointers
    and then ints.

    ``reach`` is all that it touches; empty where that is not told.
    """

    kernel: str
    grid: tuple[int, int]
    block: int
    shared: int
    arguments: tuple[Address, ...]
    reach: tuple[Reach, ...] = ()
    numbers: tuple[int, ...] = ()


class Driver(Protocol):
    """One device with its memory and its kernels.

    A ``Graph`` and a ``Mark`` are whatever the driver makes of them; nobody else looks into one.
    """

    name: str  # cuda, cuda-sim
    arch: str  # sm_90: what its kernels were compiled for

    @property
    def what(self) -> str:
        """The machine, in words."""
        ...

    def room(self) -> int:
        """Bytes that may still be allocated."""
        ...

    def allocate(self, size: int) -> Address:
        """That many bytes, aligned to 256, until the driver is closed. What is in them is anything."""
        ...

    def host(self, size: int) -> Bytes:
        """Memory [size] that uploads and downloads can be made of, until the driver is closed."""
        ...

    def fill(self, address: Address, size: int, byte: int) -> None:
        """Set bytes."""
        ...

    def upload(self, address: Address, data: Bytes) -> None:
        """Copy ``data``, a piece of ``host`` memory, to the device."""
        ...

    def download(self, address: Address, data: Bytes) -> None:
        """Copy from the device into ``data``, a piece of ``host`` memory."""
        ...

    def graph(self, launches: Sequence[Resolved]) -> Any:
        """Launches, one after another, made ready to be run again and again.

        Where kernels can (``wait_for_producers``), each may start before the one ahead of it has ended. Nothing in a
        graph starts before what was asked for ahead of the whole graph is done.
        """
        ...

    def run(self, graph: Any) -> None:
        """Run the launches of a graph."""
        ...

    def timed(self, launches: Sequence[Resolved]) -> Any:
        """A graph in which no launch starts before the one ahead of it has ended, and that writes down when they do."""
        ...

    def times(self, graph: Any) -> list[int]:
        """Nanoseconds at which each launch of a ``timed`` graph had ended, since the first began, when it ran last.

        That run must have been waited for.
        """
        ...

    def mark(self) -> Any:
        """A mark behind all that was asked for so far."""
        ...

    def wait(self, mark: Any) -> None:
        """Return when all ahead of the mark is done. A signal interrupts it; what was asked for goes on."""
        ...

    def close(self) -> None:
        """End what runs, let go of all memory. No other method may follow; closing twice is nothing."""
        ...
