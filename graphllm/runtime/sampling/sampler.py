"""The sampler of one sequence: settings, counts of what was said, and a stream of random numbers.

The stages, in this order:

    1 bias           logit_bias is added                                   (SamplerConfig)
    2 penalties      repetition, frequency, presence                       (history)
    3 temperature    logits are divided by it; 0 takes the largest, and nothing below happens
    4 top-k          5 top-p          6 min-p                              (stages)
    7 draw           one random number, however many tokens were left

Each cut sees the survivors of the one before, their probabilities rescaled to sum to one. As every drawn token takes
exactly one number of the stream, a seed gives the same tokens wherever the logits are the same.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from math import log
from typing import Final

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import RunError
from graphllm.runtime.device import Choice, Weigher
from graphllm.runtime.sampling import stages
from graphllm.runtime.sampling.config import SamplerConfig
from graphllm.runtime.sampling.draws import Draws
from graphllm.runtime.sampling.history import TokenCounts, penalised
from graphllm.runtime.sampling.logits import refuse_unless_finite
from graphllm.runtime.sampling.scores import Scores

_COLDEST: Final = 1e-6  # temperature by which a device can divide in f32


class Sampler:
    """Draws tokens for one sequence; two sequences need two samplers.

    ``vocab`` is V, the model's rows of logits; ids of ``allowed`` and above have no token and are never drawn. ``seed``
    is the one in use, drawn afresh where the settings name none. ``weigher`` is the device's own, if it has one. Raises
    RunError on a bias for an id not allowed.
    """

    def __init__(self, config: SamplerConfig, vocab: int, allowed: int, weigher: Weigher | None = None) -> None:
        if not 1 <= allowed <= vocab:
            raise RunError(f"sampler: {allowed} tokens allowed; expected 1 to {vocab}, the model's vocabulary")
        for token in config.logit_bias:
            if token >= allowed:
                raise RunError(f"sampler: logit_bias[{token}]: no such token; expected an id from 0 to {allowed - 1}")
        self.config = config
        self.vocab = vocab
        self.allowed = allowed
        # 53 bits: a number that any JSON reader gives back unchanged.
        self.seed = int.from_bytes(os.urandom(8), "little") >> 11 if config.seed is None else int(config.seed)
        self._argmax_only = config.temperature == 0 and not config.logit_bias and not config.penalised
        self._top_k = 0 < config.top_k < allowed
        self._seen = TokenCounts(vocab, allowed, config.penalty_window)
        self._scores = Scores(allowed)
        self._draws = Draws(self._scores, weigher)
        self._bias_ids = np.fromiter(config.logit_bias.keys(), np.intp)
        self._biases = np.fromiter(config.logit_bias.values(), np.float64)
        self._returned: deque[float] = deque()
        if config.temperature > 0:
            self._random = np.random.Generator(np.random.PCG64(self.seed))

    def sample(self, logits: NDArray[np.float32], history: Sequence[int]) -> int:
        """The next token after ``history``, by ``logits`` [V], which are left as they are.

        Penalties count ``history`` as it is given: prompt and answer, or the answer alone. A call with a continuation
        of the last one's costs only what is new. Raises RunError when an allowed logit is NaN or +inf, when all are
        -inf, and when a penalised history has an id outside the vocabulary.
        """
        if self._argmax_only:
            assert logits.shape == (self.vocab,)
            head = logits[: self.allowed]
            token = int(head.argmax())  # the first of equals
            refuse_unless_finite(head[token], head)
            return token
        scores, config = self._scored(logits, history), self.config
        if config.temperature == 0:
            return scores.best_id
        uniform = self.draw()
        token = None
        if not self._top_k and config.top_p < 1:
            token = self._draws.among_nucleus(config.temperature, config.top_p, config.min_p, uniform)
        elif not self._top_k and config.min_p == 0:
            token = self._draws.among_all(config.temperature, uniform)
        if token is not None:
            return token
        ids, weights = self._left(scores)
        return int(ids[stages.draw(weights, uniform)])

    @property
    def choice(self) -> Choice | None:
        """What a device must know to choose in our place; None where that takes more than the logits."""
        c = self.config
        if c.penalised or c.logit_bias or 0 < c.temperature < _COLDEST:
            return None
        return Choice(c.temperature, min(c.top_k, self.vocab), c.top_p, c.min_p, self.allowed)

    def draw(self) -> float:
        """Take the next number of the stream, in [0, 1)."""
        return self._returned.popleft() if self._returned else self._random.random()

    def give_back(self, numbers: Sequence[float]) -> None:
        """Numbers that were taken last and not used, in their order, will be the next again."""
        self._returned.extendleft(reversed(numbers))

    def candidates(
        self, logits: NDArray[np.float32], history: Sequence[int]
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The tokens that are left for the draw, by ascending id, and their probabilities up to a common factor
        and some roundings.

        Takes no random number. Both arrays are good until the next call only. Raises like ``sample``.
        """
        scores, config = self._scored(logits, history), self.config
        if config.temperature == 0:
            return np.array([scores.best_id]), np.ones(1)
        nucleus = None
        if not self._top_k and config.top_p < 1:
            nucleus = self._draws.nucleus(config.temperature, config.top_p, config.min_p)
        return self._left(scores) if nucleus is None else nucleus

    def _scored(self, logits: NDArray[np.float32], history: Sequence[int]) -> Scores:
        assert logits.shape == (self.vocab,)
        scores, head = self._scores, logits[: self.allowed]
        if not self.config.penalised:
            scores.take(head, self._bias_ids, head[self._bias_ids] + self._biases)
            return scores
        self._seen.follow(history)
        ids, counts = self._seen.ids.copy(), self._seen.counts  # counting goes on in the same place
        if len(self._bias_ids):
            changed = np.union1d(self._bias_ids, ids)
            exact = head[changed].astype(np.float64)
            exact[changed.searchsorted(self._bias_ids)] += self._biases
            seen = changed.searchsorted(ids)
            exact[seen] = penalised(exact[seen], counts, self.config)
        else:
            changed, exact = ids, penalised(head[ids].astype(np.float64), counts, self.config)
        scores.take(head, changed, exact)
        return scores

    def _left(self, scores: Scores) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The tokens that the cuts leave, and their weights: by the definition, stage by stage."""
        config = self.config
        if self._top_k:
            ids = scores.among_largest(config.top_k)
            x = scores.of(ids)
            kept = stages.top_k(x, config.top_k)
            ids, weights = ids[kept], scores.weights_of(x[kept], config.temperature)
        elif config.top_p == 1 and config.min_p > 0:
            ids = scores.not_below(scores.best + config.temperature * log(config.min_p))
            weights = scores.weights_of(scores.of(ids), config.temperature)
        else:
            ids, weights = np.arange(self.allowed), scores.weights_of(scores.all(), config.temperature)
        if config.top_p < 1:
            kept = stages.top_p(weights, config.top_p)
            ids, weights = ids[kept], weights[kept]
        if config.min_p > 0:
            kept = stages.min_p(weights, config.min_p)
            ids, weights = ids[kept], weights[kept]
        return ids, weights
