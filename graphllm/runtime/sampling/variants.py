"""Samplers of other programs, to the letter: the same cut, the same ties, and run.c's random numbers too.

    llama2.c        run.c: f32 throughout, top-p over candidates above a cutoff, xorshift64*; a seed gives run.c's text
    sample.py       llama2.c's: the k largest with all that equal the k-th, then a draw
    meta            llama3's top-p: a token stays where the mass before it is at most p
    learning-lm-rs  one draw below the smaller of the mass of k tokens and p of all

What torch and rand would draw cannot be drawn again without them: but for run.c, the numbers are our own stream's.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import RunError
from graphllm.runtime.device import Weigher
from graphllm.runtime.sampling import stages
from graphllm.runtime.sampling.config import SamplerConfig
from graphllm.runtime.sampling.logits import refuse_unless_finite
from graphllm.runtime.sampling.sampler import Sampler

_WORD = (1 << 64) - 1


class TokenChooser(Protocol):
    """What generation needs of a sampler; `Sampler` is one."""

    seed: int

    def sample(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """The next token after ``history``, by ``logits`` [V]. Raises RunError where they are no numbers."""
        ...


def make_sampler(config: SamplerConfig, vocab: int, allowed: int, weigher: Weigher | None = None) -> TokenChooser:
    """The sampler that ``config`` asks for, of one sequence. Args and errors are those of `Sampler`."""
    if config.variant is None:
        return Sampler(config, vocab, allowed, weigher)
    return _KINDS[config.variant](config, vocab, allowed)


class _Variant(ABC):
    """A seed, a stream of numbers from it, and the logits of tokens that exist."""

    def __init__(self, config: SamplerConfig, vocab: int, allowed: int) -> None:
        if not 1 <= allowed <= vocab:
            raise RunError(f"sampler: {allowed} tokens allowed; expected 1 to {vocab}, the model's vocabulary")
        self.config, self.vocab, self.allowed = config, vocab, allowed
        self.seed = int.from_bytes(os.urandom(8), "little") >> 11 | 1 if config.seed is None else int(config.seed)
        self._random = np.random.Generator(np.random.PCG64(self.seed))

    def sample(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        assert logits.shape == (self.vocab,)
        head = logits[: self.allowed]
        refuse_unless_finite(float(head.max()), head)
        return self._greedy(head) if self._is_greedy() else self._draw(head)

    def _is_greedy(self) -> bool:
        return self.config.temperature == 0

    def _greedy(self, logits: NDArray[np.float32]) -> int:
        return int(logits.argmax())

    @abstractmethod
    def _draw(self, logits: NDArray[np.float32]) -> int:
        """A token by the logits of those that exist, f32 [allowed]."""


class Llama2cSampler(_Variant):
    """run.c's ``sample``. Raises RunError for seed 0, which its generator would never leave."""

    def __init__(self, config: SamplerConfig, vocab: int, allowed: int) -> None:
        super().__init__(config, vocab, allowed)
        self._state = self.seed & _WORD
        if not self._state:
            raise RunError("sampler: seed = 0; expected another: llama2.c's random numbers would all be 0")

    def coin(self) -> float:
        """The next of xorshift64*'s numbers, 24 bits of it, in [0, 1)."""
        state = self._state
        state ^= state >> 12
        state = (state ^ state << 25) & _WORD
        state ^= state >> 27
        self._state = state
        return ((state * 0x2545F4914F6CDD1D & _WORD) >> 40) / (1 << 24)

    def _draw(self, logits: NDArray[np.float32]) -> int:
        with np.errstate(over="ignore", invalid="ignore"):
            x = logits / np.float32(self.config.temperature)
        x = np.exp(x - x.max())
        x /= x.cumsum()[-1]  # one after the other in f32, as C adds
        coin, p = np.float32(self.coin()), np.float32(self.config.top_p)
        if not 0 < p < 1:
            return min(int(x.cumsum().searchsorted(coin, side="right")), len(x) - 1)
        cutoff = (np.float32(1) - p) / np.float32(max(1, len(x) - 1))
        kept = np.flatnonzero(x >= cutoff)
        if not len(kept):  # run.c reads what is not there; it takes a small vocabulary and a small p
            return self._greedy(logits)
        kept = kept[np.argsort(-x[kept], kind="stable")]
        mass = x[kept].cumsum()
        last = min(int(mass.searchsorted(p, side="right")), len(kept) - 1)  # the first beyond p is still in
        place = int(mass[: last + 1].searchsorted(coin * mass[last], side="right"))
        return int(kept[min(place, last)])


class SamplePySampler(_Variant):
    """llama2.c's sample.py."""

    def _draw(self, logits: NDArray[np.float32]) -> int:
        x = logits.astype(np.float64) / self.config.temperature
        if 0 < self.config.top_k < len(x):
            least = np.partition(x, -self.config.top_k)[-self.config.top_k]
            x[x < least] = -np.inf
        return stages.draw(np.exp(x - x.max()), self._random.random())


class MetaSampler(_Variant):
    """llama3's ``sample_top_p``."""

    def _draw(self, logits: NDArray[np.float32]) -> int:
        x = logits.astype(np.float64) / self.config.temperature
        x = np.exp(x - x.max())
        x /= x.sum()
        order = np.argsort(-x, kind="stable")
        falling = x[order]
        falling[falling.cumsum() - falling > self.config.top_p] = 0
        return int(order[stages.draw(falling, self._random.random())])


class LearningLmSampler(_Variant):
    """learning-lm-rs's ``random_sample``."""

    def _is_greedy(self) -> bool:
        return self.config.temperature <= 0 or self.config.top_k < 2 or self.config.top_p <= 0

    def _greedy(self, logits: NDArray[np.float32]) -> int:
        return len(logits) - 1 - int(logits[::-1].argmax())  # the last of equals

    def _draw(self, logits: NDArray[np.float32]) -> int:
        order = np.argsort(-logits, kind="stable")
        falling = logits[order].astype(np.float64)
        mass = np.exp((falling - falling[0]) / self.config.temperature).cumsum()
        most = min(mass[min(self.config.top_k, len(mass)) - 1], self.config.top_p * mass[-1])
        return int(order[int(mass.searchsorted(self._random.random() * most))])


_KINDS: dict[str, type[_Variant]] = {
    "llama2.c": Llama2cSampler,
    "sample.py": SamplePySampler,
    "meta": MetaSampler,
    "learning-lm-rs": LearningLmSampler,
}
