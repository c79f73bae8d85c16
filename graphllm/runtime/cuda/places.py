"""Where everything of a program lies in a GPU's memory: three allocations, made once.

    weights     one after another, each at a multiple of 256
    work        arena, memory, step
    states      one after another, each at a multiple of 256

What they take is known before any of it is allocated, or a weight read; so is the largest context that would fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from graphllm.errors import DeviceError
from graphllm.ir.core import Module
from graphllm.plan.launch import Launch, Pointer, Program
from graphllm.plan.place import size_text
from graphllm.runtime.cuda.driver import Address, Driver, Reach, Resolved

ALIGNMENT: Final = 256
SPARE: Final = 96 << 20  # for the driver: kernels, graphs, stacks of threads


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of a program's memories: of each weight and state by their numbers, of arena, memory and step."""

    weights: tuple[int, ...]
    states: tuple[int, ...]
    arena: int
    memory: int
    step: int
    context: int  # positions that the states have room for

    @classmethod
    def of(cls, program: Program, module: Module) -> Sizes:
        """Those of a program that was generated from the module."""
        stored = {w.name: w.type.bytes for w in module.stored_weights()}
        states = tuple(module.states[name].type for name in program.states)
        return cls(
            tuple(stored[name] for name in program.weights),
            tuple(t.bytes for t in states),
            program.arena,
            program.memory,
            max(4 * stream.words for stream in program.streams.values()),
            states[0].shape[2] if states else 0,
        )

    @property
    def work(self) -> int:
        """Bytes of arena, memory and step together."""
        return sum(map(_aligned, (self.arena, self.memory, self.step)))

    @property
    def total(self) -> int:
        """All bytes."""
        return total(self.weights) + self.work + total(self.states)

    @property
    def allocations(self) -> tuple[int, int, int]:
        """Bytes of the three allocations: weights, work, states."""
        weights, states = (max(ALIGNMENT, total(sizes)) for sizes in (self.weights, self.states))
        return weights, self.work + ALIGNMENT, states

    def check(self, room: int, what: str) -> None:
        """Raise DeviceError, with the largest context that would fit, unless all of it has room in ``room`` bytes.

        Args:
            what: the machine, in words.
        """
        need = self.total
        if need + SPARE <= room:
            return
        left = room - SPARE - total(self.weights) - self.work
        fitting = max(0, left) // max(1, total(self.states) // max(1, self.context))
        hint = (
            f"--context {fitting} fits"
            if fitting
            else "not even a short context fits; --quantize makes weights smaller"
        )
        raise DeviceError(
            f"memory of {what}: {size_text(room)} free; expected {size_text(need + SPARE)}: weights "
            f"{size_text(total(self.weights))}, KV cache {size_text(total(self.states))} for {self.context} positions, "
            f"activations {size_text(self.work)}, the driver {size_text(SPARE)}; {hint}"
        )


class Places:
    """The three allocations of a program on a driver. Raises DeviceError where they cannot be had."""

    def __init__(self, driver: Driver, sizes: Sizes) -> None:
        self.sizes = sizes
        self.weight_offsets = offsets(sizes.weights)
        weights, work, states = sizes.allocations
        self.weights = driver.allocate(weights)
        self.arena = driver.allocate(work)
        self.memory = Address(self.arena + _aligned(sizes.arena))
        self.step = Address(self.memory + _aligned(sizes.memory))
        self.states = driver.allocate(states)
        self._state_offsets = offsets(sizes.states)
        driver.fill(self.memory, _aligned(sizes.memory) + _aligned(sizes.step), 0)
        driver.fill(self.states, states, 0)

    def state(self, number: int) -> Address:
        """Where a state begins."""
        return Address(self.states + self._state_offsets[number])

    def address(self, pointer: Pointer) -> Address:
        """The address that a pointer of a launch stands for."""
        base: Mapping[str, int] = {"arena": self.arena, "memory": self.memory, "step": self.step}
        if pointer.where == "weight":
            return Address(self.weights + self.weight_offsets[pointer.index] + pointer.offset)
        if pointer.where == "state":
            return Address(self.state(pointer.index) + pointer.offset)
        return Address(base[pointer.where] + pointer.offset)

    def resolved(self, launch: Launch, chunks: int) -> Resolved:
        """A launch with its addresses, for a step of so many chunks of keys."""
        grid = (launch.grid[0], chunks) if launch.chunked else launch.grid
        arguments = tuple(self.address(p) for p in launch.arguments)
        reach = tuple(Reach(self.address(a.pointer), a.size, a.written) for a in launch.accesses)
        return Resolved(launch.kernel, grid, launch.block, launch.shared, arguments, reach, launch.numbers)


def offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where each begins when they lie one after another."""
    at, out = 0, list[int]()
    for size in sizes:
        out.append(at)
        at += _aligned(size)
    return tuple(out)


def total(sizes: Sequence[int]) -> int:
    """What they take together, each at its alignment."""
    return sum(map(_aligned, sizes))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
