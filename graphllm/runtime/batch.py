"""Many prompts side by side: one slot each, common steps, and the next prompt in as soon as an answer is complete."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from graphllm.runtime.device import Logits
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Progress, check_count
from graphllm.runtime.logprobs import logprob_of, prompt_logprobs
from graphllm.runtime.sampling import Sampler, SamplerConfig, TokenChooser


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and how it is to be answered.

    ``says_stop`` is told each token and answers whether the text is complete with it, as a stop text makes it.
    ``logprobs`` alternatives are kept for each token of the answer, and with ``echo`` of the prompt before it.
    """

    prompt: Sequence[int]
    sampler: TokenChooser
    max_tokens: int | None
    stop_ids: frozenset[int] = frozenset()
    says_stop: Callable[[int], bool] | None = None
    logprobs: int | None = None
    echo: bool = False


@dataclass(slots=True)
class _Row:
    """An answer on its way: what was asked, what was said, and the token to go on from, None where it is complete."""

    index: int
    request: Request
    progress: Progress
    history: list[int]
    token: int | None = None
    started: float = field(default_factory=time.perf_counter)


def complete(engine: Engine, requests: Iterable[Request]) -> Iterator[tuple[int, Progress]]:
    """Answer all requests and yield each one's number and answer as it is complete.

    As many are on their way as the engine has slots, whatever those hold is forgotten. No answer depends on the others.
    Requests are taken from their iterable as slots become free.

    Raises:
        RunError: a prompt is empty or does not fit in the context, an id is outside the vocabulary, or the model gives
            logits that are no numbers. Answers that were not complete are lost.
    """
    waiting = enumerate(requests)
    free = list(range(engine.slots))
    live: dict[int, _Row] = {}
    while True:
        while free and (item := next(waiting, None)) is not None:
            row = _begun(engine, *item, free[0])
            if row.token is None:
                yield row.index, row.progress
            else:
                live[free.pop(0)] = row
        if not live:
            return
        rows = sorted(live.items())
        _go_on(engine, rows)
        for slot, row in rows:
            if row.token is None:
                free.append(slot)
                del live[slot]
                yield row.index, row.progress


def _begun(engine: Engine, index: int, request: Request, slot: int) -> _Row:
    check_count(request.max_tokens)
    progress = Progress(prompt_tokens=len(request.prompt), seed=request.sampler.seed)
    row = _Row(index, request, progress, list(request.prompt))
    engine.truncate(0, slot)
    scored = request.echo and request.logprobs is not None
    if scored:
        progress.logprobs = prompt_logprobs(engine, request.prompt, request.logprobs or 0, slot)
        # Fed once more, as any prompt is: asking for its probabilities must not change the answer.
        engine.truncate(0, slot)
    logits = engine.feed(request.prompt, slot) if not scored or request.max_tokens != 0 else None
    progress.prefill_seconds = time.perf_counter() - row.started
    row.started = time.perf_counter()
    if request.max_tokens == 0 or logits is None:
        progress.finish = "length"
    else:
        row.token = _sampled(row, logits, engine, slot)
    return row


def _go_on(engine: Engine, rows: Sequence[tuple[int, _Row]]) -> None:
    """A step for all of (slot, row), or several: until an answer is complete where the device chooses all tokens.

    It runs ahead then, so that what is on its way when an answer is complete is still taken for the others.
    """
    going = [(row.token, slot, _on_device(row, engine)) for slot, row in rows if row.token is not None]
    chosen = [(token, slot, sampler) for token, slot, sampler in going if sampler is not None]
    if len(chosen) == len(going):
        limits = [(row.request.max_tokens, len(row.progress.tokens)) for _, row in rows]
        most = min((asked - said for asked, said in limits if asked is not None), default=None)
        for tokens in engine.tokens_many(chosen, most, lambda: all(row.token is not None for _, row in rows)):
            for (slot, row), token in zip(rows, tokens, strict=True):
                _take(row, token, engine, slot)
        return
    # Logits are the device's own until its next step: every row takes its token from them at once.
    found = engine.choose_many(going) if chosen else engine.step_many([(token, slot) for token, slot, _ in going])
    for (slot, row), of_row in zip(rows, found, strict=True):
        _take(row, of_row, engine, slot)


def _on_device(row: _Row, engine: Engine) -> Sampler | None:
    """The sampler of a row whose token the device can choose: one whose logits nobody wants to see."""
    sampler = row.request.sampler
    if row.request.logprobs is None and isinstance(sampler, Sampler) and engine.chooses(sampler):
        return sampler
    return None


def _take(row: _Row, found: int | Logits, engine: Engine, slot: int) -> None:
    """What a step has found for a row: a token, or the logits for one. Nothing where the answer is complete."""
    if row.token is None:
        return
    row.token = _said(row, found, engine, slot) if isinstance(found, int) else _sampled(row, found, engine, slot)
    if row.token is None:
        row.progress.decode_seconds = time.perf_counter() - row.started


def _sampled(row: _Row, logits: Logits, engine: Engine, slot: int) -> int | None:
    """``_said`` of the token that the row's sampler takes."""
    token, alternatives = row.request.sampler.sample(logits, row.history), row.request.logprobs
    if alternatives is not None and token not in row.request.stop_ids:
        row.progress.logprobs.append(logprob_of(logits, token, alternatives))
    return _said(row, token, engine, slot)


def _said(row: _Row, token: int, engine: Engine, slot: int) -> int | None:
    """The token to go on from, None where the answer is complete with this one."""
    request, progress = row.request, row.progress
    if token in request.stop_ids:
        progress.finish = "stop"
        return None
    progress.tokens.append(token)
    row.history.append(token)
    if request.says_stop is not None and request.says_stop(token):
        progress.finish = "stop"
    elif len(progress.tokens) == request.max_tokens:
        progress.finish = "length"
    elif engine.lengths[slot] >= engine.context:
        progress.finish = "context"
    else:
        return token
    return None


def numbered(config: SamplerConfig, index: int) -> SamplerConfig:
    """The settings of sequence ``index`` of a batch: a stream of random numbers of its own."""
    return config if config.seed is None else replace(config, seed=config.seed + index)
