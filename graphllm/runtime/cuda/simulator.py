"""A driver whose device is this CPU: the same CUDA kernels, thread by thread, in an order drawn from a seed.

It is there for machines without a GPU, for tests and for the curious. Threads run until they must wait for others, and
then some other runs; shared memory and new memory are full of NaN; blocks of a launch begin what they may do before the
launch ahead has ended. What a real GPU would forgive on most days is an error here: threads that do not meet, races,
what was read before it was written, a byte out of bounds.

What is asked for is done when somebody waits, as on a GPU, so memory of ``host`` must be left alone until then.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from weakref import finalize

import numpy as np

from graphllm.errors import DeviceError
from graphllm.runtime.cuda.driver import Address, Bytes, Reach, Resolved
from graphllm.runtime.memory import available_bytes

ABI: Final = 1
THREADS, LANES = 1024, 32
SHARED: Final = 232448  # bytes, of the largest GPU
SLICE: Final = 50  # milliseconds between two looks at whether the user wants an end


class _Range(ctypes.Structure):
    _fields_ = (
        ("begin", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("argument", ctypes.c_uint32),
        ("written", ctypes.c_uint32),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("ranges", ctypes.c_void_p),
        ("range_count", ctypes.c_uint32),
        ("grid_x", ctypes.c_uint32),
        ("grid_y", ctypes.c_uint32),
        ("block", ctypes.c_uint32),
        ("shared", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class _Graph:
    launches: ctypes.Array[_Launch]
    count: int
    held: list[Any]  # what their addresses are of


@dataclass(frozen=True, slots=True)
class _Timed:
    graphs: list[_Graph]  # of one launch each
    ends: list[int]  # nanoseconds of this machine's clock: the beginning, then the end of each


class Simulator:
    """A simulated GPU.

    Args:
        library: its kernels, built by ``graphllm.compiler.native.simulated``.
        arch: that of the library.
        seed: of the order of things; $GRAPHLLM_SIM_SEED, or 0, where none is given.
        ahead: launches begin before those ahead of them have ended, where the architecture lets them.
        together: all blocks of a launch run at the same time, rather than one after another.

    Raises:
        DeviceError: the library cannot be loaded, or the seed is not a number.
    """

    name = "cuda-sim"

    def __init__(
        self, library: Path, arch: str, *, seed: int | None = None, ahead: bool = True, together: bool = False
    ) -> None:
        self.arch = arch
        self._library, self._code = library, _load(library)
        self._seed = _seed() if seed is None else seed
        self._watches = bool(self._code.graphllm_sim_watches())
        self._machine = self._code.graphllm_sim_open(self._seed & (1 << 64) - 1, ahead, together)
        self._arrays: dict[int, Bytes] = {}  # by address
        self._work: list[Callable[[], bool]] = []  # each says whether it is done
        self._asked = self._done = 0
        self._lost = ""
        self._end = finalize(self, _closed, self._code.graphllm_sim_close, self._machine, self._arrays)

    @property
    def what(self) -> str:
        """The machine, in words."""
        how = "every access to memory is checked" if self._watches else "accesses to memory are not checked"
        return f"a simulated GPU, {self.arch}, seed {self._seed}; {how}"

    def room(self) -> int:
        found = available_bytes()
        return 1 << 62 if found is None else found

    def allocate(self, size: int) -> Address:
        self._check()
        address = self._code.graphllm_sim_allocate(self._machine, max(1, size))
        if not address:
            raise DeviceError(f"cuda-sim: no memory for {size} bytes")
        self._arrays[address] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return Address(address)

    def host(self, size: int) -> Bytes:
        return np.zeros(size, np.uint8)

    def fill(self, address: Address, size: int, byte: int) -> None:
        piece = self._piece(address, size)
        self._ask(lambda: piece.fill(byte))

    def upload(self, address: Address, data: Bytes) -> None:
        piece = self._piece(address, data.size)
        self._ask(lambda: np.copyto(piece, data))

    def download(self, address: Address, data: Bytes) -> None:
        piece = self._piece(address, data.size)
        self._ask(lambda: np.copyto(data, piece))

    def graph(self, launches: Sequence[Resolved]) -> _Graph:
        self._check()
        if self._watches:
            self._watch(launches)
        held: list[Any] = []
        return _Graph(
            (_Launch * max(1, len(launches)))(*(self._launch(x, held) for x in launches)), len(launches), held
        )

    def timed(self, launches: Sequence[Resolved]) -> _Timed:
        return _Timed([self.graph([launch]) for launch in launches], [])

    def times(self, graph: _Timed) -> list[int]:
        return [end - graph.ends[0] for end in graph.ends[1:]]

    def run(self, graph: _Graph | _Timed) -> None:
        self._check()
        if isinstance(graph, _Timed):
            self._ask(lambda: graph.ends.__setitem__(slice(None), [time.perf_counter_ns()]))
            for one in graph.graphs:
                self.run(one)
                self._ask(lambda: graph.ends.append(time.perf_counter_ns()))
            return
        begun = False

        def work() -> bool:
            nonlocal begun
            if not begun:
                self._code.graphllm_sim_begin(self._machine, graph.launches, graph.count)
                begun = True
            state = int(self._code.graphllm_sim_go_on(self._machine, SLICE))
            if state < 0:
                said = bytes(self._code.graphllm_sim_message(self._machine)).decode(errors="replace")
                self._lost = f"cuda-sim: {_with_lines(said, self._library)}"
                raise DeviceError(self._lost)
            return state == 0

        self._asked += 1
        self._work.append(work)

    def mark(self) -> int:
        self._check()
        return self._asked

    def wait(self, mark: int) -> None:
        self._check()
        while self._done < mark:
            if self._work[0]():
                self._work.pop(0)
                self._done += 1

    def close(self) -> None:
        self._lost = self._lost or "cuda-sim: closed"
        self._work.clear()
        self._end()

    def _check(self) -> None:
        if self._lost:
            raise DeviceError(self._lost)

    def _ask(self, do: Callable[[], None]) -> None:
        def work() -> bool:
            do()
            return True

        self._check()
        self._asked += 1
        self._work.append(work)

    def _piece(self, address: Address, size: int) -> Bytes:
        for start, array in self._arrays.items():
            if start <= address and address + size <= start + array.size:
                return array[address - start :][:size]
        raise DeviceError(f"cuda-sim: {size} bytes at {address:#x}; expected a piece of what was allocated")

    def _watch(self, launches: Sequence[Resolved]) -> None:
        """Have the memory watched that launches write to, which is any where they do not say."""
        written = [r for launch in launches for r in launch.reach if r.written]
        untold = any(not launch.reach for launch in launches)
        for start, array in self._arrays.items():
            wanted = untold or any(start <= r.address < start + array.size for r in written)
            if wanted and not self._code.graphllm_sim_watch(self._machine, start):
                raise DeviceError(f"cuda-sim: no memory to watch {array.size} bytes by")

    def _launch(self, launch: Resolved, held: list[Any]) -> _Launch:
        name, (x, y) = launch.kernel.encode(), launch.grid
        parameters = ctypes.c_uint()
        kernel = self._code.graphllm_sim_kernel(name, ctypes.byref(parameters))
        where = f"cuda-sim: kernel {launch.kernel}"
        if not kernel:
            raise DeviceError(f"{where}: not among those that were built")
        given = (*launch.arguments, *launch.numbers)
        if parameters.value != len(given):
            raise DeviceError(f"{where}: expected {parameters.value} arguments, got {len(given)}")
        if not (0 < launch.block <= THREADS and launch.block % LANES == 0):
            raise DeviceError(f"{where}: expected a block of {LANES} to {THREADS} threads in warps, got {launch.block}")
        if not (0 < x < 1 << 31 and 0 < y < 1 << 16 and 0 <= launch.shared <= SHARED):
            raise DeviceError(f"{where}: a grid of {x} x {y} blocks with {launch.shared} bytes each is too large")
        arguments = (ctypes.c_void_p * max(1, len(given)))(*given)
        ranges = (_Range * max(1, len(launch.reach)))(*(_range(r, launch.arguments) for r in launch.reach))
        held += [name, arguments, ranges]
        place, reach = ctypes.addressof(arguments), ctypes.addressof(ranges)
        return _Launch(name, kernel, place, reach, len(launch.reach), x, y, launch.block, launch.shared)


def _range(reach: Reach, arguments: Sequence[Address]) -> _Range:
    """``reach`` with the number of the argument it is told by."""
    end = reach.address + reach.size
    number = next((i for i, address in enumerate(arguments) if reach.address <= address < end), 0)
    return _Range(reach.address, reach.size, number, reach.written)


def _seed() -> int:
    word = os.environ.get("GRAPHLLM_SIM_SEED") or "0"
    try:
        return int(word)
    except ValueError:
        raise DeviceError(f"GRAPHLLM_SIM_SEED={word!r:.40}; expected a whole number") from None


def _load(library: Path) -> ctypes.CDLL:
    """The library with the types of its functions. Raises DeviceError."""
    try:
        code = ctypes.CDLL(str(library))
        found = int(code.graphllm_sim_abi())
    except (OSError, AttributeError) as error:
        raise DeviceError(f"cuda-sim: {library.name}: cannot be loaded; {str(error).splitlines()[0]}") from None
    if found != ABI:
        raise DeviceError(f"cuda-sim: {library.name}: expected interface {ABI}, got {found}")
    pointer, integer, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64
    code.graphllm_sim_kernel.argtypes, code.graphllm_sim_kernel.restype = [ctypes.c_char_p, pointer], pointer
    code.graphllm_sim_open.argtypes, code.graphllm_sim_open.restype = [long, integer, integer], pointer
    code.graphllm_sim_allocate.argtypes, code.graphllm_sim_allocate.restype = [pointer, long], pointer
    code.graphllm_sim_watch.argtypes, code.graphllm_sim_watch.restype = [pointer, pointer], integer
    code.graphllm_sim_begin.argtypes, code.graphllm_sim_begin.restype = [pointer, pointer, long], None
    code.graphllm_sim_go_on.argtypes, code.graphllm_sim_go_on.restype = [pointer, integer], integer
    code.graphllm_sim_message.argtypes, code.graphllm_sim_message.restype = [pointer], ctypes.c_char_p
    code.graphllm_sim_close.argtypes, code.graphllm_sim_close.restype = [pointer], None
    return code


def _closed(close: Callable[[int], None], machine: int, arrays: dict[int, Bytes]) -> None:
    close(machine)
    arrays.clear()


def _with_lines(said: str, library: Path) -> str:
    """Addresses in the library's code, ``{+1f0}``, become lines of its source where a tool knows them."""
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")

    def line(match: re.Match[str]) -> str:
        if tool is None:
            return "an unknown line"
        command = [tool, "-e", str(library), match[1]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return "an unknown line"
        found = re.match(r"(.*?):(\d+)", done.stdout)
        return f"{Path(found[1]).name}:{found[2]}" if found else "an unknown line"

    return re.sub(r"\{\+([0-9a-f]+)\}", line, said)
