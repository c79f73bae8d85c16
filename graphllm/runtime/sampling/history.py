"""The tokens so far, counted as they come, and the penalties on them.

A step costs the tokens that are new and the distinct ones that are counted: neither the whole history nor the
vocabulary. The formulas act on logits, count c > 0 within the window:

    repetition   x / r where x >= 0, x * r where x < 0      Keskar et al. 2019, arXiv:1909.05858, section 4.1; the case
                                                            for negative logits is Hugging Face transformers'
    frequency    x - c * f                                  OpenAI API reference, "frequency and presence penalties"
    presence     x - p                                      likewise
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import RunError
from graphllm.runtime.sampling.config import SamplerConfig


class TokenCounts:
    """How often each token occurs in the latest ``window`` tokens of a history (0: in all of it).

    The counted tokens lie densely in two parallel arrays, so that a penalty is a few vector operations on them. Ids of
    ``allowed`` and above are legal in a history but can never be drawn, so they are not counted.
    """

    def __init__(self, vocab: int, allowed: int, window: int) -> None:
        self._vocab, self._allowed, self._window = vocab, allowed, window
        self._ids = np.empty(64, np.intp)
        self._counts = np.empty(64, np.float64)
        self._forget()

    @property
    def ids(self) -> NDArray[np.intp]:
        """The distinct tokens counted, in no particular order."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> NDArray[np.float64]:
        """How often each of ``ids`` occurs, 1 or more."""
        return self._counts[: len(self._place)]

    def follow(self, history: Sequence[int]) -> None:
        """Count what ``history`` has beyond what was counted; start over when it is not a continuation.

        A history that is shorter, or differs at the last token counted, is another one. Raises RunError on an id
        outside the vocabulary.
        """
        if self._length and (len(history) < self._length or history[self._length - 1] != self._last):
            self._forget()
        for position in range(self._length, len(history)):
            token = history[position]
            if not 0 <= token < self._vocab:
                self._forget()
                raise RunError(f"history[{position}]: token id {token}; expected 0 to {self._vocab - 1}")
            self._enter(token)
            if self._window:
                self._latest.append(token)
                if len(self._latest) > self._window:
                    self._leave(self._latest.popleft())
            self._length, self._last = position + 1, token

    def _forget(self) -> None:
        self._place: dict[int, int] = {}  # token -> where it lies in the arrays
        self._latest: deque[int] = deque()  # the counted tokens, where there is a window
        self._length = 0
        self._last = -1

    def _enter(self, token: int) -> None:
        if token >= self._allowed:
            return
        place = self._place.get(token)
        if place is None:
            place = len(self._place)
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.empty_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.empty_like(self._counts)])
            self._place[token] = place
            self._ids[place], self._counts[place] = token, 0
        self._counts[place] += 1

    def _leave(self, token: int) -> None:
        if token >= self._allowed:
            return
        place = self._place[token]
        self._counts[place] -= 1
        if self._counts[place] == 0:
            del self._place[token]
            last = len(self._place)
            if place != last:  # the last one moves into the gap
                self._ids[place], self._counts[place] = self._ids[last], self._counts[last]
                self._place[int(self._ids[place])] = place


def penalised(logits: NDArray[np.float64], counts: NDArray[np.float64], config: SamplerConfig) -> NDArray[np.float64]:
    """``logits`` of tokens that occur ``counts`` times, under the penalties in the order of the module's table."""
    x = np.where(logits < 0, logits * config.repetition_penalty, logits / config.repetition_penalty)
    return x - counts * config.frequency_penalty - config.presence_penalty
