"""A driver whose kernels are Python functions: it works when it is waited for, as much as it must or by chance more.

So memory that was changed or read too early, or told in the wrong order, shows. ``model_program`` is a program of
two kernels: a whole step of a model, computed by the NumPy device, and the choice of a token, by the host's sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphllm.errors import DeviceError
from graphllm.ir.core import Module
from graphllm.plan.launch import CHOICE_WORDS, HEADER, HEADER_WORDS, SETTINGS, Kernel, Launch, Pointer, Program, Stream
from graphllm.runtime.cuda.driver import Address, Bytes, Resolved
from graphllm.runtime.device import Device, Row
from graphllm.runtime.sampling import Sampler, SamplerConfig

BASE = 1 << 20  # the first address

PyKernel = Callable[["FakeDriver", Resolved], None]


class FakeDriver:
    """Attributes: ``calls`` names every call in order, ``fetched`` has the bytes of every download; ``fail`` makes the
    next call of a name fail."""

    arch = "sm_90"
    what = "a fake GPU"
    name = "cuda-fake"

    def __init__(self, kernels: Mapping[str, PyKernel] = {}, room: int = 1 << 30) -> None:
        self.kernels, self.memory, self.free = kernels, np.zeros(0, np.uint8), room
        self.calls: list[str] = []
        self.grids: list[tuple[int, int]] = []
        self.fetched: list[int] = []
        self.fail: dict[str, str] = {}
        self.closed = 0
        self._late: list[Callable[[], None]] = []
        self._done = 0
        self._rng = np.random.default_rng(0)
        self.hurries = True  # it may be further than anyone has waited for

    def room(self) -> int:
        return self.free

    def allocate(self, size: int) -> Address:
        self._call("allocate")
        if size > self.free:
            raise DeviceError(f"fake: no {size} bytes")
        self.free -= size
        at = -(-len(self.memory) // 256) * 256
        rubbish = np.random.default_rng(at).integers(0, 256, at + size - len(self.memory), np.uint8)
        self.memory = np.concatenate([self.memory, rubbish])
        return Address(BASE + at)

    def host(self, size: int) -> Bytes:
        return np.zeros(size, np.uint8)

    def at(self, address: int, size: int) -> Bytes:
        """The device's own bytes."""
        start = address - BASE
        assert 0 <= start <= start + size <= len(self.memory)
        return self.memory[start : start + size]

    def fill(self, address: Address, size: int, byte: int) -> None:
        self._call("fill")
        self._late.append(lambda: self.at(address, size).fill(byte))

    def upload(self, address: Address, data: Bytes) -> None:
        self._call("upload")
        self._late.append(lambda: np.copyto(self.at(address, len(data)), data))

    def download(self, address: Address, data: Bytes) -> None:
        self._call("download")
        self.fetched.append(len(data))
        self._late.append(lambda: np.copyto(data, self.at(address, len(data))))

    def graph(self, launches: Sequence[Resolved]) -> Any:
        self._call("graph")
        return tuple(launches)

    def run(self, graph: Any) -> None:
        self._call("run")

        def work() -> None:
            for launch in graph:
                self.grids.append(launch.grid)
                self.kernels[launch.kernel](self, launch)

        self._late.append(work)

    def mark(self) -> int:
        self._call("mark")
        return self._done + len(self._late)

    def wait(self, mark: int) -> None:
        self._call("wait")
        ahead = self.hurries and self._rng.integers(0, 2)
        more = int(self._rng.integers(0, len(self._late) + 1)) if ahead else 0
        while self._done < mark or (self._late and (more := more - 1) >= 0):
            work = self._late.pop(0)
            self._done += 1
            work()

    def close(self) -> None:
        self.closed += 1

    @property
    def waiting(self) -> int:
        """Graphs and copies that are asked for and not done."""
        return len(self._late)

    def _call(self, name: str) -> None:
        assert not self.closed, f"{name} after close"
        self.calls.append(name)
        if name in self.fail:
            raise DeviceError(self.fail.pop(name))


def model_program(module: Module, chunk: int = 8) -> Program:
    """A program with two kernels for every function of a lowered module."""
    streams: dict[str, Stream] = {}
    weights = tuple(w.name for w in module.stored_weights())
    for name, function in module.functions.items():
        result = function.results[0]
        assert result.arena is not None
        logits = Pointer("arena", 0, result.arena)
        buckets = tuple(1 << i for i in range(8))
        step = Launch(f"step_{name}", (1, 1), 32, 0, (Pointer("step"), logits), (), chunked=True)
        rows, vocab = result.type.shape
        choose = Launch("choose", (1, rows), 32, 0, (Pointer("step"), logits), ())
        streams[name] = Stream(
            name,
            function.inputs[0].type.shape[0],
            (step,),
            (choose,) if name.startswith("decode") else (),
            chunk,
            buckets,
            result.arena,
            (rows, vocab),
        )
    names = (*(f"step_{name}" for name in module.functions), "choose")
    arena = max(f.arena or 0 for f in module.functions.values())
    kernels = {name: Kernel(name, "", "") for name in names}
    return Program(kernels, streams, weights, tuple(module.states), arena, 64)


def model_kernels(program: Program, device: Device) -> dict[str, PyKernel]:
    """Its kernels, by a device that computes the same functions."""

    def step(stream: Stream) -> PyKernel:
        def run(driver: FakeDriver, launch: Resolved) -> None:
            words = driver.at(launch.arguments[0], 4 * stream.words).view(np.int32)
            live, row = int(words[HEADER["live"]]), int(words[HEADER["row"]])
            table = words[HEADER_WORDS : stream.tokens].reshape(-1, 3)
            assert (table[live:, 1] == -1).all()
            assert stream.name.startswith("decode") or row == live - 1
            rows = [Row(*map(int, r)) for r in table[:live]]
            need = -(-(1 + max(r.position for r in rows)) // stream.chunk)
            assert need <= launch.grid[1] < 2 * need or launch.grid[1] == 1
            if stream.name == "decode":
                logits = device.row(*rows[0])
            elif stream.name.startswith("decode_"):
                logits = device.rows(stream.name, rows)
            else:
                ids = [r.token for r in rows]
                logits = device.block(stream.name, ids, rows[0].position, rows[0].slot)
            size = 4 * stream.logits_shape[0] * stream.logits_shape[1]
            driver.at(launch.arguments[1], size).view(np.float32)[:] = np.asarray(logits).reshape(-1)

        return run

    vocab = next(iter(program.streams.values())).logits_shape[1]

    def choose(driver: FakeDriver, launch: Resolved) -> None:
        rows = launch.grid[1]
        words = driver.at(launch.arguments[0], 4 * (HEADER_WORDS + (3 + CHOICE_WORDS) * rows)).view(np.int32)
        table, rest = words[HEADER_WORDS:][: 3 * rows].reshape(rows, 3), words[HEADER_WORDS + 3 * rows :]
        tokens, draws, settings = rest[:rows], rest[rows : 3 * rows].view(np.uint64), rest[3 * rows :].reshape(rows, -1)
        logits = driver.at(launch.arguments[1], 4 * rows * vocab).view(np.float32).reshape(rows, vocab)
        for t in range(words[HEADER["live"]]):
            floats, own = settings[t].view(np.float32), settings[t]
            if not np.isfinite(logits[t]).all():
                tokens[t] = -1
                continue
            config = SamplerConfig(
                temperature=float(floats[SETTINGS["temperature"]]),
                top_k=int(own[SETTINGS["top_k"]]),
                top_p=float(floats[SETTINGS["top_p"]]),
                min_p=float(floats[SETTINGS["min_p"]]),
            )
            sampler = Sampler(config, vocab, int(own[SETTINGS["allowed"]]) or vocab)
            sampler.give_back([int(draws[t]) / 2.0**64])
            tokens[t] = sampler.sample(logits[t], [])
            if own[SETTINGS["advance"]]:
                table[t, 0] = tokens[t]
                table[t, 1] += 1

    return {f"step_{name}": step(stream) for name, stream in program.streams.items()} | {"choose": choose}
