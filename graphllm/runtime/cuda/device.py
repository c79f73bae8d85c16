"""The CUDA device: a program's launches with their addresses, as graphs that are run again and again.

A step is one small copy to the device, one graph, and the logits back where somebody wants them. Where nobody does,
because the device chooses the tokens itself, graphs follow each other without the host between them: it runs ahead, and
reads tokens as they come (``tokens``), those of all rows in one small copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Lock
from time import perf_counter_ns
from typing import Any, Final
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import RunError
from graphllm.ir.core import Module
from graphllm.plan.launch import HEADER, HEADER_WORDS, ROW_WORDS, SETTINGS, Program, Stream
from graphllm.runtime.cuda.driver import Address, Bytes, Driver
from graphllm.runtime.cuda.places import Places, Sizes
from graphllm.runtime.cuda.upload import Progress, upload
from graphllm.runtime.device import Choice, DeviceMemory, Logits, Row

AHEAD: Final = 2  # graphs on their way while the host reads a token: one runs, one waits
_WORD: Final = 4
_TRIED: Final = 256 << 20  # bytes that are filled to see how fast: far more than caches hold
_FILLS: Final = 8  # in a row, so that asking for them takes none of the time
_LIKELIEST: Final = Choice(0.0, 0, 1.0, 0.0, 0)  # for rows whose token nobody asks for


class CudaDevice:
    """A program on a driver that has its kernels.

    Args:
        driver: it is the device's from now on, and closed with it.
        program: what our own generator printed for the module.
        module: the lowered module, verified.
        read_weight: a stored weight by name, as it lies in the plan.
        poison: fill the arena with NaN before every step, to show that no step reads what an earlier one left.
        progress: called with (bytes done, bytes in all) as weights are uploaded.

    Attributes:
        program: what it runs.

    Raises:
        DeviceError: memory cannot be had, or the device fails. The driver is closed then.
    """

    storage = ""

    def __init__(
        self,
        driver: Driver,
        program: Program,
        module: Module,
        read_weight: Callable[[str], NDArray[Any]],
        *,
        poison: bool = False,
        progress: Progress = lambda done, of: None,
    ) -> None:
        self.name = driver.name
        self._driver, self.program, self._poison, self._lock = driver, program, poison, Lock()
        self._states = {name: module.states[name].type for name in program.states}
        self._close = finalize(self, driver.close)
        try:
            sizes = Sizes.of(program, module)
            self._places = Places(driver, sizes)
            upload(driver, self._places.weights, sizes.weights, lambda i: read_weight(program.weights[i]), progress)
            words = max(stream.words for stream in program.streams.values())
            logits = max(np.prod(stream.logits_shape, dtype=int) for stream in program.streams.values())
            self._words = driver.host(_WORD * words).view(np.int32)
            self._logits = driver.host(_WORD * int(logits)).view(np.float32)
            rows = max((stream.rows for stream in program.streams.values() if stream.choice), default=0)
            self._tokens = driver.host(_WORD * (AHEAD + 1) * rows).view(np.int32).reshape(AHEAD + 1, rows)
            self._draws = driver.host(2 * _WORD * (AHEAD + 1) * rows).view(np.uint64).reshape(AHEAD + 1, rows)
        except BaseException:
            self._close()
            raise
        self._sizes = sizes
        self._graphs: dict[tuple[str, int, bool], Any] = {}
        self._timed: dict[tuple[str, int], Any] = {}
        self._sent: Any = None  # a mark behind the last step that was sent: until then its words must stay
        self._steps = 0  # that were sent

    @property
    def memory(self) -> DeviceMemory:
        """What lies in the GPU's memory."""
        sizes = self._sizes
        return DeviceMemory(sum(sizes.weights), 0, sizes.arena, sum(sizes.states), sizes.work - sizes.arena)

    @property
    def arena(self) -> NDArray[np.uint8]:
        """A copy of the arena as the last step left it."""
        return self._read(self._places.arena, self._sizes.arena)

    @property
    def states(self) -> Mapping[str, NDArray[Any]]:
        """Copies of the caches, by name."""
        return {
            name: self._read(self._places.state(i), t.bytes).view(t.numpy).reshape(t.shape)
            for i, (name, t) in enumerate(self._states.items())
        }

    def close(self) -> None:
        """Let go of the GPU; no step may follow."""
        self._close()

    def prepare(self, function: str) -> None:
        """Make every graph of a function."""
        stream = self.program.streams[function]
        with self._lock:
            for chunks in stream.buckets:
                self._graph(stream, chunks, False)
                if stream.choice:
                    self._graph(stream, chunks, True)

    def row(self, token: int, position: int, slot: int) -> Logits:
        with self._lock:
            return self._step("decode", [(token, position, slot)], 0)[0]

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        with self._lock:
            return self._step(function, rows, 0)

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Logits:
        rows = [(token, start + t, slot) for t, token in enumerate(tokens)]
        with self._lock:
            return self._step(function, rows, len(tokens) - 1)

    def append(self, function: str, tokens: Sequence[int], start: int, slot: int) -> None:
        """``block`` without logits: nothing is waited for but the step before it."""
        rows = [(token, start + t, slot) for t, token in enumerate(tokens)]
        with self._lock:
            self._send(self.program.streams[function], rows, len(tokens) - 1)
            self._run(function, start + len(tokens), False)

    def tokens(
        self,
        function: str,
        rows: Sequence[Row],
        choices: Sequence[Choice],
        draws: Sequence[Iterator[float]],
        more: Callable[[], bool],
    ) -> Iterator[Sequence[int]]:
        """Tokens that follow the rows' and each other, a step's together, each chosen on the device.

        Raises:
            RunError: logits are not numbers, or something else was run on the device since the last tokens.
            DeviceError: the device fails.
        """
        stream, longest = self.program.streams[function], 1 + max(row.position for row in rows)
        drawing = [i for i, choice in enumerate(choices) if choice.temperature > 0]
        with self._lock:
            self._send(stream, rows, 0, choices, advance=True)
            own = self._steps
        waiting: deque[tuple[Any, int]] = deque()
        sent, ended = 0, False
        while True:
            with self._lock:
                if self._steps != own:
                    raise RunError("tokens: another step was run in between; expected to be taken to their end first")
                while len(waiting) < AHEAD and not (ended := ended or not more()):
                    place = sent % (AHEAD + 1)
                    self._send_draws(stream, place, {i: next(draws[i]) for i in drawing})
                    self._run(function, longest + sent, True)
                    self._ask_tokens(stream, place)
                    self._sent = self._driver.mark()
                    waiting.append((self._sent, place))
                    sent += 1
                if not waiting:
                    return
                mark, place = waiting.popleft()
                self._driver.wait(mark)
                chosen: list[int] = self._tokens[place, : len(rows)].tolist()
            _refuse_no_token(chosen)
            yield chosen

    def choose(
        self, function: str, rows: Sequence[Row], choices: Sequence[Choice | None], draws: Sequence[float]
    ) -> Sequence[int | Logits]:
        """A step: each row's token, or its logits where it has no choice.

        Raises:
            RunError: logits by which the device is to choose are not numbers.
            DeviceError: the device fails.
        """
        stream, driver = self.program.streams[function], self._driver
        vocab = stream.logits_shape[1]
        logits = self._logits[: stream.logits_shape[0] * vocab].reshape(stream.logits_shape)
        with self._lock:
            self._send(stream, rows, 0, [choice or _LIKELIEST for choice in choices])
            self._send_draws(stream, 0, {i: draws[i] for i, c in enumerate(choices) if c and c.temperature > 0})
            self._run(function, 1 + max(row.position for row in rows), True)
            self._ask_tokens(stream, 0)
            for i, choice in enumerate(choices):
                if choice is None:
                    at = Address(self._places.arena + stream.logits + _WORD * vocab * i)
                    driver.download(at, logits[i].view(np.uint8))
            self._sent = driver.mark()
            driver.wait(self._sent)
            chosen: list[int] = self._tokens[0, : len(rows)].tolist()
        _refuse_no_token([token for token, choice in zip(chosen, choices, strict=True) if choice is not None])
        return [logits[i] if choice is None else chosen[i] for i, choice in enumerate(choices)]

    def time_launches(self, function: str, tokens: Sequence[int], start: int, slot: int) -> tuple[int, list[int]]:
        """``row`` or ``block``, its launches one after another: none starts before the one ahead of it has ended.

        Returns:
            Nanoseconds of the whole step, as the caller sees it; and when each of ``program``'s launches had ended,
            since the first began.
        """
        stream, driver = self.program.streams[function], self._driver
        rows = [(token, start + t, slot) for t, token in enumerate(tokens)]
        with self._lock:
            key = (function, self._bucket(stream, start + len(tokens)))
            if key not in self._timed:
                self._timed[key] = driver.timed([self._places.resolved(x, key[1]) for x in stream.launches])
            begin = perf_counter_ns()
            self._send(stream, rows, len(tokens) - 1)
            driver.run(self._timed[key])
            self._fetch_logits(stream)
            return perf_counter_ns() - begin, driver.times(self._timed[key])

    def fill_rate(self, rounds: int = 5) -> float:
        """Bytes a second that the device's memory takes, the fastest of a few times that some of it is filled.

        What it is tried on, at most 256 MB, stays allocated until the device is closed.
        """
        driver, times = self._driver, list[int]()
        with self._lock:
            size = min(_TRIED, driver.room() // 4)
            at = driver.allocate(max(1, size))
            for _ in range(rounds):
                driver.wait(driver.mark())
                begin = perf_counter_ns()
                for _ in range(_FILLS):
                    driver.fill(at, size, 0)
                driver.wait(driver.mark())
                times.append(perf_counter_ns() - begin)
        return 1e9 * _FILLS * size / max(1, min(times))

    def _step(self, function: str, rows: Sequence[tuple[int, int, int]], row: int) -> Logits:
        """A step with its logits, as the function gives them."""
        stream = self.program.streams[function]
        self._send(stream, rows, row)
        self._run(function, 1 + max(position for _, position, _ in rows), False)
        return self._fetch_logits(stream)

    def _fetch_logits(self, stream: Stream) -> Logits:
        count = stream.logits_shape[0] * stream.logits_shape[1]
        out = self._logits[:count]
        self._driver.download(Address(self._places.arena + stream.logits), out.view(np.uint8))
        self._driver.wait(self._driver.mark())
        return out.reshape(stream.logits_shape)

    def _send(
        self,
        stream: Stream,
        rows: Sequence[tuple[int, int, int]],
        row: int,
        choices: Sequence[Choice] = (),
        *,
        advance: bool = False,
    ) -> None:
        """One copy that tells the device all of a step but its draws; rows that are not there have position -1."""
        assert 0 < len(rows) <= stream.rows
        driver = self._driver
        self._steps += 1
        if self._sent is not None:
            driver.wait(self._sent)
            self._sent = None
        words = self._words[: stream.words if choices else stream.tokens]
        words.fill(0)
        words[HEADER["live"]], words[HEADER["row"]] = len(rows), row
        table = words[HEADER_WORDS : stream.tokens].reshape(-1, ROW_WORDS)
        table[: len(rows)] = rows
        table[len(rows) :, 1] = -1
        settings = words[stream.settings :].reshape(-1, len(SETTINGS))
        for own, choice in zip(settings, choices, strict=False):
            floats = own.view(np.float32)
            own[SETTINGS["top_k"]], own[SETTINGS["allowed"]] = choice.top_k, choice.allowed
            own[SETTINGS["advance"]], floats[SETTINGS["temperature"]] = advance, choice.temperature
            floats[SETTINGS["top_p"]], floats[SETTINGS["min_p"]] = choice.top_p, choice.min_p
        if self._poison:
            driver.fill(self._places.arena, self._sizes.arena, 0xFF)
        driver.upload(self._places.step, words.view(np.uint8))
        self._sent = driver.mark()

    def _send_draws(self, stream: Stream, place: int, numbers: Mapping[int, float]) -> None:
        """Where the next draws of some rows fall: fractions of 64 bits, which hold all of a float's."""
        if not numbers:
            return
        draws = self._draws[place, : stream.rows]
        for row, number in numbers.items():
            draws[row] = int(number * 2.0**64)
        self._driver.upload(Address(self._places.step + _WORD * stream.draws), draws.view(np.uint8))

    def _ask_tokens(self, stream: Stream, place: int) -> None:
        at = Address(self._places.step + _WORD * stream.tokens)
        self._driver.download(at, self._tokens[place, : stream.rows].view(np.uint8))

    def _run(self, function: str, positions: int, choosing: bool) -> None:
        stream = self.program.streams[function]
        self._driver.run(self._graph(stream, self._bucket(stream, positions), choosing))

    @staticmethod
    def _bucket(stream: Stream, positions: int) -> int:
        """Chunks of the graph for a step whose rows see so many positions."""
        chunks = -(-positions // max(1, stream.chunk))
        return next((b for b in stream.buckets if b >= chunks), stream.buckets[-1])

    def _graph(self, stream: Stream, chunks: int, choosing: bool) -> Any:
        if not any(launch.chunked for launch in stream.launches):
            chunks = stream.buckets[0]  # one serves all
        key = (stream.name, chunks, choosing)
        graph = self._graphs.get(key)
        if graph is None:
            launches = (*stream.launches, *(stream.choice if choosing else ()))
            graph = self._driver.graph([self._places.resolved(launch, chunks) for launch in launches])
            self._graphs[key] = graph
        return graph

    def _read(self, at: Address, size: int) -> Bytes:
        """Bytes of the device, copied through the memory of logits piece by piece."""
        out, room, driver = np.empty(size, np.uint8), self._logits.view(np.uint8), self._driver
        with self._lock:
            for start in range(0, size, len(room)):
                part = room[: min(len(room), size - start)]
                driver.download(Address(at + start), part)
                driver.wait(driver.mark())
                out[start : start + len(part)] = part
        return out


def _refuse_no_token(chosen: Sequence[int]) -> None:
    if min(chosen, default=0) < 0:
        raise RunError(
            "logits: NaN or infinite, found on the device; expected finite numbers; the model's weights or its "
            "arithmetic are broken"
        )
