"""From a prompt's tokens to an answer's: prefill, then sample and step until something says stop."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Literal

import numpy as np

from graphllm.errors import RunError
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import Sampler, SamplerConfig

Finish = Literal["stop", "length", "context", "cancelled"]


@dataclass(slots=True)
class Progress:
    """What a generation has done so far; complete when its iterator has ended.

    ``finish``: ``stop`` an end token or stop string, ``length`` the tokens asked for, ``context`` no position is left,
    ``cancelled`` the caller stopped listening.
    """

    prompt_tokens: int = 0
    tokens: list[int] = field(default_factory=list[int])
    finish: Finish = "cancelled"
    seed: int = 0  # of the sampler
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    @property
    def prefill_speed(self) -> float:
        """Prompt tokens a second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_speed(self) -> float:
        """Tokens a second after the first, which prefill has paid for."""
        return (len(self.tokens) - 1) / self.decode_seconds if self.decode_seconds and len(self.tokens) > 1 else 0.0


def generate_tokens(
    engine: Engine,
    prompt: Sequence[int],
    sampler: Sampler,
    *,
    max_tokens: int | None,
    stop_ids: frozenset[int],
    progress: Progress,
    slot: int = 0,
) -> Iterator[int]:
    """Feed ``prompt`` to an empty slot and yield the tokens that follow, stop tokens excluded.

    Raises:
        RunError: the prompt is empty or does not fit in the context (with both numbers), or ``max_tokens`` < 0.
    """
    check_count(max_tokens)
    started = time.perf_counter()
    logits = engine.feed(prompt, slot)
    progress.prompt_tokens = len(prompt)
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
        progress.tokens.append(token)
        history.append(token)
        yield token
        if len(progress.tokens) == max_tokens:
            progress.finish = "length"
            break
        if engine.lengths[slot] >= engine.context:
            progress.finish = "context"
            break
        if chosen is None and engine.chooses(sampler):
            chosen = engine.tokens(token, slot, sampler, None if max_tokens is None else max_tokens - 1)
        elif chosen is None:
            logits = engine.step(token, slot)
            progress.decode_seconds = time.perf_counter() - first
    else:
        progress.finish = "length"


def generate_batch(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    config: SamplerConfig,
    *,
    allowed: int,
    max_tokens: int | None,
    stop_ids: frozenset[int],
) -> list[Progress]:
    """Several prompts side by side, one slot each, decoded in common steps; slots are emptied first.

    Sequence i samples with its own stream of random numbers: ``config.seed + i`` where a seed is given.

    Raises:
        RunError: more prompts than slots, or what ``generate_tokens`` raises.
    """
    check_count(max_tokens)
    if len(prompts) > engine.slots:
        raise RunError(f"batch: {len(prompts)} prompts; this plan holds {engine.slots} at once, choose more --slots")
    samplers = [
        Sampler(replace(config, seed=config.seed + i) if config.seed is not None else config, engine.vocab, allowed)
        for i in range(len(prompts))
    ]
    out = [Progress(prompt_tokens=len(p), finish="length", seed=s.seed) for p, s in zip(prompts, samplers, strict=True)]
    histories = [list(p) for p in prompts]
    for slot in range(len(prompts)):
        engine.truncate(0, slot)
    started = time.perf_counter()
    # copied: the device's own are good until its next step, which is another prompt's
    logits = {slot: np.array(engine.feed(p, slot)) for slot, p in enumerate(prompts)}
    first = time.perf_counter()
    live = {slot for slot in logits if max_tokens is None or max_tokens > 0}
    while live:
        chosen: list[tuple[int, int]] = []
        for slot in sorted(live):
            token = samplers[slot].sample(logits[slot], histories[slot])
            if token in stop_ids:
                out[slot].finish = "stop"
                live.remove(slot)
                continue
            out[slot].tokens.append(token)
            histories[slot].append(token)
            if len(out[slot].tokens) == max_tokens:
                live.remove(slot)
            elif engine.lengths[slot] >= engine.context:
                out[slot].finish = "context"
                live.remove(slot)
            else:
                chosen.append((token, slot))
        if chosen:
            logits.update(zip((slot for _, slot in chosen), engine.step_many(chosen), strict=True))
    for progress in out:
        progress.prefill_seconds = first - started
        progress.decode_seconds = time.perf_counter() - first
    return out


def check_count(max_tokens: object) -> None:
    """Raise RunError unless ``max_tokens`` is None, for no limit, or a whole number of tokens."""
    if max_tokens is None:
        return
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, Integral) or int(max_tokens) < 0:
        raise RunError(f"max_tokens: {max_tokens!r}; expected 0 or more")
