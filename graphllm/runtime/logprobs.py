"""What a model thought of a token, and of the tokens it might have been: natural logarithms of probabilities.

They are the model's own, of its logits as they are: before temperature, penalties and cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from graphllm.errors import RunError
from graphllm.runtime.device import Logits
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import log_probs

MOST = 100  # alternatives a token


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability, and the likeliest tokens in its place with theirs, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def logprob_of(logits: Logits, token: int, alternatives: int = 0) -> TokenLogprob:
    """Of ``token`` by ``logits`` [V]. Among equals the lowest id comes first. Raises RunError for broken logits."""
    scores = log_probs(logits)
    alternatives = min(alternatives, len(scores))
    top: tuple[tuple[int, float], ...] = ()
    if alternatives:
        least = np.partition(scores, -alternatives)[-alternatives]
        ids = np.flatnonzero(scores >= least)
        ids = ids[np.argsort(-scores[ids], kind="stable")][:alternatives]
        top = tuple((int(i), float(scores[i])) for i in ids)
    return TokenLogprob(token, float(scores[token]), top)


def prompt_logprobs(engine: Engine, prompt: Sequence[int], alternatives: int = 0, slot: int = 0) -> list[TokenLogprob]:
    """Of each token of ``prompt``, fed to an empty slot; 0 for the first, which nothing precedes.

    Raises RunError like ``feed``.
    """
    out = [TokenLogprob(prompt[0], 0.0)] if prompt else []
    following: Iterator[int] = iter(prompt[1:])
    for block in engine.score(prompt, slot):
        out += [logprob_of(row, token, alternatives) for row, token in zip(block, following, strict=False)]
    return out


def check_logprobs(alternatives: object) -> None:
    """Raise RunError unless it is None, for none, or how many alternatives each token is to have."""
    if alternatives is None:
        return
    if isinstance(alternatives, bool) or not isinstance(alternatives, Integral) or not 0 <= int(alternatives) <= MOST:
        raise RunError(f"logprobs: {alternatives!r:.40}; expected 0 to {MOST} alternatives a token")
