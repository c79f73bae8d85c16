"""What is timed, named as llama-bench names it.

pp512          a prompt of 512 tokens into an empty cache
tg128          128 tokens one after the other, starting with an empty cache
tg128 x4       the same for 4 sequences side by side
tg128 @ d1024  the same behind 1024 tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from graphllm.errors import RunError
from graphllm.runtime.engine import Engine


@dataclass(frozen=True, slots=True)
class Case:
    """``pp``: a prompt of ``tokens``; ``tg``: as many steps, each of ``batch`` rows. Both behind ``depth`` tokens."""

    kind: Literal["pp", "tg"]
    tokens: int
    batch: int = 1
    depth: int = 0

    @property
    def name(self) -> str:
        batch = f" x{self.batch}" if self.batch > 1 else ""
        return f"{self.kind}{self.tokens}{batch}" + (f" @ d{self.depth}" if self.depth else "")

    @property
    def rows(self) -> int:
        """Tokens that count, of all sequences."""
        return self.tokens * self.batch

    def check(self, engine: Engine) -> None:
        """Raise RunError unless an engine can run it."""
        if self.depth + self.tokens > engine.context:
            raise RunError(
                f"{self.name}: takes {self.depth + self.tokens} positions; this model has {engine.context}, "
                "choose fewer or a larger --context"
            )
        if self.batch > engine.slots:
            raise RunError(f"{self.name}: takes {self.batch} slots; this model has {engine.slots}")


def cases(
    prompts: Sequence[int], generations: Sequence[int], batches: Sequence[int], depths: Sequence[int]
) -> list[Case]:
    """Every combination, prompts first. Raises RunError where there is none, or a number makes no sense."""
    given = (("prompt", prompts, 0), ("generate", generations, 0), ("batch", batches, 1), ("depth", depths, 0))
    for name, numbers, least in given:
        if any(n < least for n in numbers):
            raise RunError(f"{name}: {min(numbers)}; expected {least} or more")
    out = list(_cases(prompts, generations, batches, depths))
    if not out:
        raise RunError("bench: nothing to time; expected a --prompt or a --generate above 0")
    return out


def _cases(
    prompts: Sequence[int], generations: Sequence[int], batches: Sequence[int], depths: Sequence[int]
) -> Iterator[Case]:
    for depth in depths:
        yield from (Case("pp", n, 1, depth) for n in prompts if n)
    for depth in depths:
        yield from (Case("tg", n, batch, depth) for batch in batches for n in generations if n)
