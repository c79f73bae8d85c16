"""The native device: a shared library built from generated C++, called once a step.

The library is given addresses once: of weights where they lie in the mapped plan, of caches and of the arena. It has
threads of its own, which wait between steps and end with the device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import NativeError, RunError
from graphllm.ir.core import Module
from graphllm.ir.lifetime import ALIGNMENT
from graphllm.runtime.device import DeviceMemory, Logits, Row

Array = NDArray[Any]
ABI: Final = 4  # of the functions below; the generator prints the same number
_PATIENCE: Final = 60.0  # seconds that closing waits for a step to end


@dataclass(frozen=True, slots=True)
class _Bound:
    """A function with the arrays that its steps read and leave."""

    number: int
    ids: NDArray[np.int32]
    pos: NDArray[np.int32]
    slot: NDArray[np.int32]
    rows: NDArray[np.int32]
    inputs: tuple[int, int, int, int]  # their addresses
    logits: Logits


class CpuDevice:
    """A lowered module as native code.

    Args:
        module: the lowered module, verified, that the library was generated from.
        library: what our own generator printed, built.
        weights: names of stored weights in the library's order.
        read_weight: a stored weight by name, as it lies in the plan.
        threads: how many compute, the caller's included.
        poison: fill the arena with NaN before every step, to show that no step reads what an earlier one left.

    Raises:
        NativeError: the library cannot be loaded.
        RunError: caches, arena or threads cannot be had.
    """

    name = "cpu"
    storage = ""

    def __init__(
        self,
        module: Module,
        library: Path,
        weights: Sequence[str],
        read_weight: Callable[[str], Array],
        *,
        threads: int,
        poison: bool = False,
    ) -> None:
        self.threads = threads
        self._module, self._poison, self._lock = module, poison, Lock()
        arena = max((f.arena or 0 for f in module.functions.values()), default=0)
        try:
            self._arena = aligned_zeros(arena)
            self._states = {
                s.name: aligned_zeros(s.type.bytes).view(s.type.numpy).reshape(s.type.shape)
                for s in module.states.values()
            }
        except MemoryError:
            states = sum(s.type.bytes for s in module.states.values())
            raise RunError(
                f"memory: the KV cache takes {states} bytes and the arena {arena}, more than this machine gives; "
                "choose a smaller --context or fewer --slots"
            ) from None
        held = [_aligned(read_weight(name)) for name in weights]
        stored = sum(w.type.bytes for w in module.stored_weights())
        copied = sum(array.nbytes for array, is_copy in held if is_copy)

        code = _load(library)
        arrays = [array for array, _ in held]
        states = list(self._states.values())
        self.weigher = _NativeWeights(code)
        handle = code.graphllm_open(_addresses(arrays), _addresses(states), self._arena.ctypes.data, threads)
        if not handle:
            raise RunError(f"threads: {threads} cannot be started; choose fewer with --threads")
        self._handle, self._step = ctypes.c_void_p(handle), code.graphllm_step
        # The last use of all this memory is the closing; until then the library holds its addresses.
        held_memory = (arrays, states, self._arena)
        self._close = finalize(self, _closed, code.graphllm_close, self._handle, self._lock, held_memory)
        held_by_states, workspace = sum(s.nbytes for s in states), int(code.graphllm_workspace(handle))
        self._memory = DeviceMemory(stored + copied, stored, arena, held_by_states, workspace)
        self._bound = {name: self._bind(number, name) for number, name in enumerate(module.functions)}
        self._decode = self._bound.get("decode")
        self._one = (ctypes.c_int32 * 3)()  # token, position, slot of a single row
        start = ctypes.addressof(self._one)
        self._one_at = (start, start + 4, start + 8)

    @property
    def memory(self) -> DeviceMemory:
        return self._memory

    @property
    def states(self) -> Mapping[str, Array]:
        """The caches themselves, by name."""
        return self._states

    @property
    def arena(self) -> NDArray[np.uint8]:
        """The arena itself."""
        return self._arena

    def prepare(self, function: str) -> None:
        """Nothing is left to be made ready."""

    def close(self) -> None:
        """End its threads; a step that follows is refused."""
        if self._close():
            self._lock.release()

    def row(self, token: int, position: int, slot: int) -> Logits:
        bound, one = self._decode, self._one
        assert bound is not None
        with self._lock:
            if self._poison:
                self._arena.fill(0xFF)
            one[0], one[1], one[2] = token, position, slot
            self._check_open()
            self._step(self._handle, bound.number, *self._one_at, None, 1)
        return bound.logits

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        bound, live = self._bound[function], len(rows)
        with self._lock:
            for i, row in enumerate(rows):
                bound.ids[i], bound.pos[i], bound.slot[i] = row
            self._run(bound, live)
        return bound.logits

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Logits:
        bound, live = self._bound[function], len(tokens)
        with self._lock:
            bound.ids[:live] = tokens
            bound.pos[:live] = np.arange(start, start + live)
            bound.slot[:live] = slot
            bound.rows[:] = live - 1
            self._run(bound, live)
        return bound.logits

    def step(self, function: str, inputs: Mapping[str, Sequence[int]]) -> None:
        """Any function of the module, with ``ids``, ``pos``, ``slot`` and ``rows`` for as many rows as are live."""
        bound, live = self._bound[function], len(inputs["pos"])
        with self._lock:
            for name in ("ids", "pos", "slot", "rows"):
                given = inputs.get(name, ())
                getattr(bound, name)[: len(given)] = given
            self._run(bound, live)

    def _run(self, bound: _Bound, live: int) -> None:
        """A step on the inputs that are in place; rows from ``live`` on are neither computed nor read."""
        assert 0 < live <= len(bound.ids)
        if self._poison:
            self._arena.fill(0xFF)
        self._check_open()
        self._step(self._handle, bound.number, *bound.inputs, live)

    def _check_open(self) -> None:
        if not self._handle:
            raise RunError("model: it was closed; load it again")

    def _bind(self, number: int, name: str) -> _Bound:
        function = self._module.functions[name]
        sizes = {v.name: v.type.numel for v in function.inputs}
        most = max(sizes.values(), default=1)
        ids, pos, slot, rows = (np.zeros(sizes.get(n, most), np.int32) for n in ("ids", "pos", "slot", "rows"))
        inputs = (ids.ctypes.data, pos.ctypes.data, slot.ctypes.data, rows.ctypes.data)
        logits = np.empty((0, 0), np.float32)
        if function.results and (place := function.results[0].arena) is not None:
            shape = function.results[0].type.shape
            logits = np.ndarray(shape[1:] if name == "decode" else shape, np.float32, self._arena, place)
        return _Bound(number, ids, pos, slot, rows, inputs, logits)


class _NativeWeights:
    """The library's weights of tokens: `runtime.device.Weigher`. They take nothing of the device, and outlive it."""

    def __init__(self, code: ctypes.CDLL) -> None:
        self._weigh, self._histogram = code.graphllm_weigh, code.graphllm_histogram

    def weigh(
        self,
        logits: Logits,
        temperature: float,
        largest: float,
        below: NDArray[np.float64],
        *,
        exactly: bool,
        low: float = np.inf,
        high: float = np.inf,
        beyond: NDArray[np.float64] | None = None,
        between: NDArray[np.int64] | None = None,
    ) -> int:
        assert logits.flags.c_contiguous
        places = (None if array is None else array.ctypes.data for array in (below, beyond, between))
        room = 0 if between is None else len(between)
        at, n, cool = logits.ctypes.data, len(logits), 1 / temperature
        return int(self._weigh(at, n, low, high, largest, cool, exactly, *places, room))

    def histogram(self, logits: Logits, temperature: float, largest: float, counts: NDArray[np.int32]) -> None:
        assert logits.flags.c_contiguous
        self._histogram(logits.ctypes.data, len(logits), largest, 1 / temperature, counts.ctypes.data)


def _load(library: Path) -> ctypes.CDLL:
    """The library with the types of its functions. Raises NativeError."""
    try:
        code = ctypes.CDLL(str(library))
        found = int(code.graphllm_abi())
    except (OSError, AttributeError) as error:
        raise NativeError(f"native code {library.name}: cannot be loaded; {str(error).splitlines()[0]}") from None
    if found != ABI:
        raise NativeError(f"native code {library.name}: expected interface {ABI}, got {found}")
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    code.graphllm_open.argtypes, code.graphllm_open.restype = [pointer, pointer, pointer, integer], pointer
    code.graphllm_close.argtypes, code.graphllm_close.restype = [pointer], None
    code.graphllm_workspace.argtypes, code.graphllm_workspace.restype = [pointer], ctypes.c_long
    code.graphllm_step.argtypes = [pointer, integer, pointer, pointer, pointer, pointer, integer]
    code.graphllm_step.restype = None
    single, double = ctypes.c_float, ctypes.c_double
    long, arrays = ctypes.c_long, [pointer] * 3
    code.graphllm_weigh.argtypes = [pointer, long, single, single, single, double, integer, *arrays, long]
    code.graphllm_weigh.restype = long
    code.graphllm_histogram.argtypes, code.graphllm_histogram.restype = [pointer, long, single, double, pointer], None
    return code


def _closed(close: Callable[[int], None], handle: ctypes.c_void_p, lock: Lock, held: object) -> bool:
    """``held`` is memory the library works on: it is let go only after the library's threads have ended.

    A program may end while a thread of its own is in a step. That step comes to its end first, and the lock stays
    taken, so that none follows. False where the step does not end, as in the child of a fork in mid-step.
    """
    if not lock.acquire(timeout=_PATIENCE):
        return False
    close(handle.value or 0)
    handle.value = None
    return True


def _addresses(arrays: Sequence[Array]) -> ctypes.Array[Any]:
    return (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))


def _aligned(array: Array) -> tuple[Array, bool]:
    """The array, or a copy of it that starts at a cache line, and which of the two."""
    if array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous:
        return array, False
    copy = aligned_zeros(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy, True


def aligned_zeros(size: int) -> NDArray[np.uint8]:
    """Zeroed bytes that start at a cache line; pages that nobody touches take no memory."""
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size]
