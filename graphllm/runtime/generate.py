"""From a prompt's tokens to an answer's: prefill, then sample and step until something says stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal

from graphllm.errors import RunError
from graphllm.runtime.engine import Engine
from graphllm.runtime.logprobs import TokenLogprob, logprob_of
from graphllm.runtime.sampling import Sampler, TokenChooser

Finish = Literal["stop", "length", "context", "cancelled"]


@dataclass(slots=True)
class Progress:
    """What a generation has done so far; complete when its iterator has ended.

    ``finish``: ``stop`` an end token or stop string, ``length`` the tokens asked for, ``context`` no position is left,
    ``cancelled`` the caller stopped listening. ``kept_tokens`` of the prompt were there already. ``logprobs``: of each
    token, where they were asked for.
    """

    prompt_tokens: int = 0
    kept_tokens: int = 0
    tokens: list[int] = field(default_factory=list[int])
    finish: Finish = "cancelled"
    seed: int = 0  # of the sampler
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])

    @property
    def prefill_speed(self) -> float:
        """Prompt tokens a second, those that were fed."""
        return (self.prompt_tokens - self.kept_tokens) / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_speed(self) -> float:
        """Tokens a second after the first, which prefill has paid for."""
        return (len(self.tokens) - 1) / self.decode_seconds if self.decode_seconds and len(self.tokens) > 1 else 0.0


def generate_tokens(
    engine: Engine,
    prompt: Sequence[int],
    sampler: TokenChooser,
    *,
    max_tokens: int | None,
    stop_ids: frozenset[int],
    progress: Progress,
    slot: int = 0,
    kept: int = 0,
    logprobs: int | None = None,
) -> Iterator[int]:
    """Feed ``prompt`` to a slot and yield the tokens that follow, stop tokens excluded.

    The slot holds the first ``kept`` tokens of the prompt and no more; the last one must still be fed. With
    ``logprobs`` the progress has those of each token, and of as many alternatives.

    Raises:
        RunError: the prompt is empty or does not fit in the context (with both numbers), or ``max_tokens`` < 0.
    """
    check_count(max_tokens)
    started = time.perf_counter()
    assert 0 <= kept < max(1, len(prompt))
    progress.prompt_tokens, progress.kept_tokens = len(prompt), kept
    logits = engine.feed(prompt[kept:], slot)
    first = time.perf_counter()
    progress.prefill_seconds = first - started
    history = list(prompt)
    chosen: Iterator[int] | None = None  # by the device, which then runs ahead
    while max_tokens is None or len(progress.tokens) < max_tokens:
        token = sampler.sample(logits, history) if chosen is None else next(chosen)
        if chosen is not None:
            progress.decode_seconds = time.perf_counter() - first
        if token in stop_ids:
            progress.finish = "stop"
            break
        if logprobs is not None:
            progress.logprobs.append(logprob_of(logits, token, logprobs))
        progress.tokens.append(token)
        history.append(token)
        yield token
        if len(progress.tokens) == max_tokens:
            progress.finish = "length"
            break
        if engine.lengths[slot] >= engine.context:
            progress.finish = "context"
            break
        if chosen is None and logprobs is None and isinstance(sampler, Sampler) and engine.chooses(sampler):
            chosen = engine.tokens(token, slot, sampler, None if max_tokens is None else max_tokens - 1)
        elif chosen is None:
            logits = engine.step(token, slot)
            progress.decode_seconds = time.perf_counter() - first
    else:
        progress.finish = "length"


def check_count(max_tokens: object) -> None:
    """Raise RunError unless ``max_tokens`` is None, for no limit, or a whole number of tokens."""
    if max_tokens is None:
        return
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, Integral) or int(max_tokens) < 0:
        raise RunError(f"max_tokens: {max_tokens!r}; expected 0 or more")
