"""What a device is to the rest of the runtime: a handful of methods over a lowered module.

A device holds three things: weights, arena and states. It takes the memory of arena and states when it is made, that of
weights it must hold in another form before a function first runs, and nothing from step to step. The logits it returns
are its own, good until its next step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Logits = NDArray[np.float32]


class Row(NamedTuple):
    """One live row of a step: its token, and the position and slot that it takes."""

    token: int
    position: int
    slot: int


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes a device holds. ``mapped`` of the weights are pages of the plan file, shared with the system's cache.

    ``workspace`` is what its threads, or the device itself, work in beside the arena.
    """

    weights: int
    mapped: int
    arena: int
    states: int
    workspace: int = 0


class Device(Protocol):
    """Runs the functions of one lowered module."""

    name: str
    storage: str  # how weights that are not f32 are held, in words; '' where all are

    @property
    def memory(self) -> DeviceMemory:
        """What it holds so far."""
        ...

    @property
    def arena(self) -> NDArray[np.uint8]:
        """What the arena holds after the last step, a view or a copy: for tools that look inside."""
        ...

    def prepare(self, function: str) -> None:
        """Make ready for a function's steps now rather than at the first of them."""
        ...

    def row(self, token: int, position: int, slot: int) -> Logits:
        """``decode``: logits [V] of one row."""
        ...

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        """``decode_N`` with at most N live rows, each of its own slot: logits [N,V], the live ones first."""
        ...

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Logits:
        """``prefill_N`` or ``score_N`` with at most N tokens from position ``start``: logits [1,V] or [N,V]."""
        ...


@dataclass(frozen=True, slots=True)
class Choice:
    """How a device is to choose tokens: the sampler's settings that need no history. ``allowed`` ids may be chosen."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    allowed: int


@runtime_checkable
class ChoosingDevice(Protocol):
    """A device that need not be asked for logits: it takes a prompt without them, and chooses tokens by itself.

    It does so in ``decode`` and ``decode_N``, each row by its own choice. Numbers that it draws by lie in [0, 1). Where
    logits of a row that it is to choose for are not numbers, it raises RunError.
    """

    def append(self, function: str, tokens: Sequence[int], start: int, slot: int) -> None:
        """``block`` without its logits."""
        ...

    def tokens(
        self,
        function: str,
        rows: Sequence[Row],
        choices: Sequence[Choice],
        draws: Sequence[Iterator[float]],
        more: Callable[[], bool],
    ) -> Iterator[Sequence[int]]:
        """The tokens that follow those of the rows, one each; those that follow them; and so on.

        A step is sent before the tokens of the one ahead of it are known; ``more`` is asked before each whether there
        is to be one, and not again when there is not. So cache rows behind the last tokens that were taken may have
        been written: nobody reads them. ``draws`` of a row are taken ahead of its tokens, and only where those are
        drawn.
        """
        ...

    def choose(
        self, function: str, rows: Sequence[Row], choices: Sequence[Choice | None], draws: Sequence[float]
    ) -> Sequence[int | Logits]:
        """One step: the token that follows each row, or where there is no choice for it, its logits [V]."""
        ...


WEIGHED = 128  # tokens to a sum
BINS, BINS_PER_NAT = 4096, 128  # of a histogram of weights by their logarithms; the last bin is all below, too


class Weigher(Protocol):
    """Passes over what tokens weigh in a draw, e^((logit - largest) / temperature).

    ``largest`` is a finite f32 that none of the logits [n] is above; no logit is NaN. ``temperature`` is at least 1e-3.
    """

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
        """Add up what lies apart from [low, high), and return how many lie within.

        Args:
            below: gets the sums of ``WEIGHED`` successive logits each, of those below ``low``, an f32.
            exactly: within 4e-12 of each sum, else within 1.6e-5, but for weights less than e^-40.
            beyond: gets sums of those not below ``high``, an f32 above ``low``.
            between: room for the ids of those in [low, high), ascending. Where they are more, it goes no further:
                the sums are not good, and the number that is returned is only more than there is room for.
        """
        ...

    def histogram(self, logits: Logits, temperature: float, largest: float, counts: NDArray[np.int32]) -> None:
        """Count logits by weight: counts[i] weigh from e^-((i + 1) / BINS_PER_NAT) to e^-(i / BINS_PER_NAT).

        Near an edge a logit may be counted on its other side.
        """
        ...


@runtime_checkable
class WeighingDevice(Protocol):
    """A device that has code of its own for this."""

    weigher: Weigher
