"""CUDA kernels for tests: run on the simulator, with all their memory open to look at."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.native.simulated import simulated
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.ir.core import Module
from graphllm.plan.launch import HEADER_WORDS, Launch, Pointer, Program
from graphllm.runtime.cuda.driver import Address, Reach, Resolved
from graphllm.runtime.cuda.simulator import Simulator
from tests.lowered_models import Lowered, Storage, lowered

Array = NDArray[Any]


@pytest.fixture(autouse=True, scope="module")
def needs_a_compiler() -> None:
    if compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")


def cuda_lowered(name: str, storage: Storage = "f32", **choices: Any) -> Lowered:
    """A model of the zoo, lowered for CUDA."""
    return lowered(name, storage, target=CUDA, **choices)


class OpenDevice:
    """A program on the simulator, whose arena and caches may be looked at and written between steps."""

    def __init__(
        self,
        module: Module,
        weights: Mapping[str, Array],
        *,
        arch: str = "sm_90",
        seed: int = 0,
        watch: bool = False,
        program: Program | None = None,
    ) -> None:
        self.program = program or generate(module)
        library = simulated(list(self.program.kernels.values()), arch, watch=watch, brief=True)
        self.driver = Simulator(library, arch, seed=seed)
        self._weights = [self._holding(weights[name]) for name in self.program.weights]
        self._states = {n: self._room(module.states[n].type.bytes) for n in self.program.states}
        self.states = {
            n: room[1].view(module.states[n].type.numpy).reshape(module.states[n].type.shape)
            for n, room in self._states.items()
        }
        self._arena = self._room(self.program.arena)
        self.arena = self._arena[1]
        self._memory = self._room(self.program.memory)
        self._memory[1].fill(0)
        self._step = self._room(4 * max(s.words for s in self.program.streams.values()))
        self.words = self._step[1].view(np.int32)
        self._graphs: dict[tuple[str, int], Any] = {}

    def step(self, function: str, inputs: Mapping[str, Sequence[int]]) -> None:
        """One step on the inputs of the rows that are live."""
        stream, words = self.program.streams[function], self.words
        live = len(inputs["pos"])
        words.fill(0)
        words[0] = live
        words[1] = next(iter(inputs.get("rows", ())), 0)
        for i, name in enumerate(("ids", "pos", "slot")):
            given = inputs.get(name, ())
            words[HEADER_WORDS + i : HEADER_WORDS + 3 * len(given) : 3] = given
        longest = max(inputs["pos"], default=0) // stream.chunk + 1 if stream.chunk else 1
        self.run(function, next(b for b in stream.buckets if b >= longest))

    def run(self, function: str, chunks: int) -> None:
        key = function, chunks
        if key not in self._graphs:
            launches = self.program.streams[function].launches
            self._graphs[key] = self.driver.graph([self.resolved(launch, chunks) for launch in launches])
        self.driver.run(self._graphs[key])
        self.driver.wait(self.driver.mark())

    def resolved(self, launch: Launch, chunks: int = 1) -> Resolved:
        grid = (launch.grid[0], chunks) if launch.chunked else launch.grid
        reach = tuple(Reach(self.address(a.pointer), a.size, a.written) for a in launch.accesses)
        arguments = tuple(self.address(p) for p in launch.arguments)
        return Resolved(launch.kernel, grid, launch.block, launch.shared, arguments, reach, launch.numbers)

    def address(self, pointer: Pointer) -> Address:
        base = {
            "weight": lambda: self._weights[pointer.index][0],
            "state": lambda: list(self._states.values())[pointer.index][0],
            "arena": lambda: self._arena[0],
            "step": lambda: self._step[0],
            "memory": lambda: self._memory[0],
        }[pointer.where]()
        return Address(base + pointer.offset)

    def _room(self, size: int) -> tuple[int, NDArray[np.uint8]]:
        address = self.driver.allocate(max(1, size))
        return address, np.ctypeslib.as_array((ctypes.c_uint8 * max(1, size)).from_address(address))[:size]

    def _holding(self, array: Array) -> tuple[int, NDArray[np.uint8]]:
        address, room = self._room(array.nbytes)
        room[...] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return address, room
