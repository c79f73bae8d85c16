"""Sequences on a device: slots with their lengths, prompts cut into the chunks a plan has functions for.

A prompt of n tokens is covered by ``prefill_N`` calls whose sizes cost least together: a call costs its N rows, live
or blank, and the reading of all weights, which is worth about ``CALL_ROWS`` rows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import lcm
from numbers import Integral

from graphllm.errors import RunError
from graphllm.ir.core import Module
from graphllm.runtime.device import ChoosingDevice, Device, Logits, Row, WeighingDevice
from graphllm.runtime.sampling import Sampler

CALL_ROWS = 16


class Engine:
    """Slots 0 … B-1 of a device, each a sequence of at most ``context`` positions.

    Logits are views of the device's memory, good until the next call. The module is one that ``runtime.interface`` has
    found to be a model: that is asked once, before a device takes it.
    """

    def __init__(self, device: Device, module: Module) -> None:
        self.device = device
        self.vocab = module.functions["decode"].results[0].type.shape[-1]
        state = next(iter(module.states.values())).type.shape
        self.slots, self.context = state[0], state[2]
        self.lengths = [0] * self.slots
        sizes = {f.name: f.inputs[0].type.shape[0] for f in module.functions.values()}
        self._prefill = {n: name for name, n in sizes.items() if name.startswith("prefill_")}
        self._batch = sorted((n, name) for name, n in sizes.items() if name.startswith("decode_"))
        self._score = next((name, n) for name, n in sizes.items() if name.startswith("score_"))
        self._chooser = device if isinstance(device, ChoosingDevice) else None
        self.weigher = device.weigher if isinstance(device, WeighingDevice) else None  # for samplers

    def feed(self, tokens: Sequence[int], slot: int = 0, chunk: int = 0) -> Logits:
        """Append tokens to a slot and return the logits [V] after the last one.

        ``chunk`` bounds the tokens of one call, for those who want a prompt cut otherwise than is fastest.

        Raises:
            RunError: no tokens, an id outside the vocabulary, or more positions than the context has.
        """
        self.check(tokens, slot)
        at = 0
        logits: Logits | None = None
        for size, live in self._calls(len(tokens), chunk):
            part = tokens[at : at + live]
            start = self.lengths[slot]
            if self._chooser is not None and at + live < len(tokens):
                self._chooser.append("decode" if size == 1 else self._prefill[size], part, start, slot)
            elif size == 1:
                logits = self.device.row(part[0], start, slot)
            else:
                logits = self.device.block(self._prefill[size], part, start, slot)[0]
            self.lengths[slot] += live
            at += live
        assert logits is not None
        return logits

    def step(self, token: int, slot: int = 0) -> Logits:
        """Append one token and return the logits [V] after it. Raises RunError like ``feed``."""
        if not (0 <= slot < self.slots and 0 <= token < self.vocab and self.lengths[slot] < self.context):
            self.check((token,), slot)
        position = self.lengths[slot]
        logits = self.device.row(token, position, slot)
        self.lengths[slot] = position + 1
        return logits

    def chooses(self, sampler: Sampler) -> bool:
        """Whether the device can choose tokens by itself as this sampler would."""
        return self._chooser is not None and sampler.choice is not None

    def tokens(self, token: int, slot: int, sampler: Sampler, most: int | None = None) -> Iterator[int]:
        """Append ``token``, yield the one that the device chooses to follow it, append that one, and so on.

        At most ``most`` tokens, and as many as the context has room for. The slot holds all but the last one; of the
        sampler's numbers each token has taken the one that it would have taken on the host.

        Raises:
            RunError: like ``feed``, and where logits are not numbers.
        """
        self.check((token,), slot)
        for (chosen,) in self._chosen("decode", [(token, slot, sampler)], most, lambda: True):
            yield chosen

    def tokens_many(
        self,
        rows: Sequence[tuple[int, int, Sampler]],
        most: int | None = None,
        going: Callable[[], bool] = lambda: True,
    ) -> Iterator[Sequence[int]]:
        """``tokens`` of several slots, a step's together: of (token, slot, sampler) each.

        Steps end when one slot has no room left, and when ``going`` says no: it is asked before each is sent, which is
        before the tokens of the one ahead of it were taken.

        Raises:
            RunError: like ``step_many``, and where logits are not numbers.
        """
        function = self._together([(token, slot) for token, slot, _ in rows])
        yield from self._chosen(function, rows, most, going)

    def _chosen(
        self, function: str, rows: Sequence[tuple[int, int, Sampler]], most: int | None, going: Callable[[], bool]
    ) -> Iterator[Sequence[int]]:
        device, samplers = self._chooser, [sampler for _, _, sampler in rows]
        assert device is not None
        choices = [choice for sampler in samplers if (choice := sampler.choice) is not None]
        room = min(self.context - self.lengths[slot] for _, slot, _ in rows)
        left = room if most is None else min(most, room)
        ahead: list[deque[float]] = [deque() for _ in rows]  # drawn for tokens that have not come yet

        def draws(sampler: Sampler, taken: deque[float]) -> Iterator[float]:
            while True:
                taken.append(sampler.draw())
                yield taken[-1]

        def more() -> bool:
            nonlocal left
            left -= 1
            return left >= 0 and going()

        numbers = [draws(sampler, taken) for sampler, taken in zip(samplers, ahead, strict=True)]
        try:
            placed = [Row(token, self.lengths[slot], slot) for token, slot, _ in rows]
            for chosen in device.tokens(function, placed, choices, numbers, more):
                for (_, slot, _), taken in zip(rows, ahead, strict=True):
                    self.lengths[slot] += 1
                    if taken:
                        taken.popleft()
                yield chosen
        finally:
            for sampler, taken in zip(samplers, ahead, strict=True):
                sampler.give_back(taken)

    def step_many(self, tokens: Sequence[tuple[int, int]]) -> list[Logits]:
        """Append one token to each of several slots: (token, slot) pairs -> logits [V] each, in one step.

        Every row is computed as if it were alone in the step: its logits do not depend on the others. Raises RunError
        like ``feed``, for two tokens of one slot, and for more rows than a step has.
        """
        function = self._together(tokens)
        if function == "decode":
            return [self.step(*tokens[0])]
        logits = self.device.rows(function, [Row(t, self.lengths[s], s) for t, s in tokens])
        for _, slot in tokens:
            self.lengths[slot] += 1
        return [logits[i] for i in range(len(tokens))]

    def choose_many(self, rows: Sequence[tuple[int, int, Sampler | None]]) -> Sequence[int | Logits]:
        """``step_many`` of (token, slot, sampler) that gives, where there is a sampler, the token it would take.

        The device chooses that one; logits are fetched only of the rows that it does not choose for. Raises RunError
        like ``step_many``, and where logits are not numbers.
        """
        device = self._chooser
        assert device is not None
        function = self._together([(token, slot) for token, slot, _ in rows])
        choices = [sampler.choice if sampler is not None else None for _, _, sampler in rows]
        draws = [
            sampler.draw() if sampler is not None and choice is not None and choice.temperature > 0 else 0.0
            for (_, _, sampler), choice in zip(rows, choices, strict=True)
        ]
        out = device.choose(function, [Row(t, self.lengths[s], s) for t, s, _ in rows], choices, draws)
        for _, slot, _ in rows:
            self.lengths[slot] += 1
        return out

    def _together(self, tokens: Sequence[tuple[int, int]]) -> str:
        """The function for a step of (token, slot) pairs. Raises RunError like ``step_many``."""
        if len({slot for _, slot in tokens}) != len(tokens):
            raise RunError("batch: two tokens for one slot in one step; expected one token a slot")
        for token, slot in tokens:
            self.check((token,), slot)
        if len(tokens) == 1 and not self._batch:
            return "decode"
        function = next((name for n, name in self._batch if n >= len(tokens)), None)
        if function is None:
            raise RunError(f"batch: {len(tokens)} rows; this plan has slots for {self.slots}")
        return function

    def score(self, tokens: Sequence[int], slot: int = 0) -> Iterator[Logits]:
        """Append tokens and yield the logits [n,V] of all of them, a block of positions at a time.

        Raises RunError like ``feed``, when the first block is asked for.
        """
        self.check(tokens, slot)
        name, n = self._score
        for at in range(0, len(tokens), n):
            part = tokens[at : at + n]
            logits = self.device.block(name, part, self.lengths[slot], slot)
            self.lengths[slot] += len(part)
            yield logits.reshape(-1, self.vocab)[: len(part)]

    def truncate(self, length: int, slot: int = 0) -> None:
        """Forget all but the first ``length`` tokens of a slot. What the cache holds behind them is never read.

        Raises RunError for a slot that does not exist.
        """
        self._check_slot(slot)
        assert 0 <= length <= self.lengths[slot]
        self.lengths[slot] = length

    def check(self, tokens: Sequence[int], slot: int = 0, *, held: int | None = None) -> None:
        """Raise RunError unless ``feed`` would take these tokens; ``held``: if the slot held so many."""
        self._check_slot(slot)
        if len(tokens) == 0:
            raise RunError("prompt: no tokens; expected at least one")
        held, more = self.lengths[slot] if held is None else held, len(tokens)
        if held + more > self.context:
            before = f" after {held} held" if held else ""
            raise RunError(
                f"context: {more} tokens{before} do not fit in {self.context} positions; shorten the prompt or "
                "choose a larger --context"
            )
        bad = next((t for t in tokens if not isinstance(t, Integral) or not 0 <= t < self.vocab), None)
        if bad is not None:
            raise RunError(f"token {bad!r}: not in the vocabulary; expected 0 to {self.vocab - 1}")

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise RunError(f"slot {slot}: no such slot; expected 0 to {self.slots - 1}")

    def _calls(self, n: int, chunk: int) -> Iterator[tuple[int, int]]:
        """(size, live rows) of the calls that take ``n`` tokens, at most ``chunk`` of them each."""
        sizes = tuple(sorted(self._prefill))
        chunk = chunk if 0 < chunk < n else n
        for left in range(n, 0, -chunk):
            piece = min(chunk, left)
            # a piece that one call can hold is one call: those who cut a prompt want their own cuts
            fitting = next((s for s in (1, *sizes) if s >= chunk), None) if chunk < n else None
            for size in (fitting,) if fitting is not None else cover(piece, sizes):
                yield size, min(size, piece)
                piece -= min(size, piece)


@lru_cache(maxsize=4096)
def cover(n: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The cheapest list of chunk sizes (1 is always there) that together hold ``n`` tokens, largest first."""
    sizes = (1, *sizes)
    largest = sizes[-1]
    # Calls of a smaller size that add up to whole largest ones cost more than those: a cheapest list has fewer.
    spare = sum(lcm(size, largest) - size for size in sizes[:-1])
    whole = max(0, (n - spare) // largest)
    rest = n - whole * largest
    cost, choice = [0.0], [0]
    for held in range(1, rest + 1):
        best, size = min((cost[max(0, held - size)] + CALL_ROWS + size, -size) for size in sizes)
        cost.append(best)
        choice.append(-size)
    tail: list[int] = []
    while rest > 0:
        tail.append(choice[rest])
        rest -= tail[-1]
    return (largest,) * whole + tuple(sorted(tail, reverse=True))
