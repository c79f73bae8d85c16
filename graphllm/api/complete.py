"""Completions of many prompts at once, each asked for in its own way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graphllm.api.answer import Completion, Prompt, stops_of
from graphllm.runtime.batch import Request, complete
from graphllm.runtime.generate import Progress, check_count
from graphllm.runtime.logprobs import check_logprobs
from graphllm.runtime.sampling import SamplerConfig, make_sampler
from graphllm.runtime.stops import StopStrings
from graphllm.runtime.tokenizer import StreamDecoder

if TYPE_CHECKING:
    from graphllm.api.model import Model


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt and how it is to be completed; fields as the arguments of ``Model.complete``.

    ``end_ids`` end an answer beside the model's own end tokens.
    """

    prompt: Prompt
    max_tokens: int | None = 256
    stop: Sequence[str | int] = ()
    ignore_eos: bool = False
    echo: bool = False
    logprobs: int | None = None
    sampler: SamplerConfig = SamplerConfig()  # noqa: RUF009  frozen
    end_ids: frozenset[int] = frozenset()


class Asked:
    """An ``Ask`` that a model can answer: encoded and checked. Raises like ``Model.generate``."""

    def __init__(self, model: Model, ask: Ask) -> None:
        self.ask = ask
        self.ids = model.encode(ask.prompt)
        model.engine.check(self.ids, held=0)
        check_count(ask.max_tokens)
        check_logprobs(ask.logprobs)
        texts, ids = stops_of(ask.stop, model)
        self._text = _Text(model.tokenizer.stream(self.ids), StopStrings(texts)) if model.tokenizer else None
        self._echo = model.tokenizer.decode(self.ids) if ask.echo and model.tokenizer else ""
        self.request = Request(
            self.ids,
            make_sampler(ask.sampler, model.engine.vocab, model.allowed, model.engine.weigher),
            ask.max_tokens,
            ids | (ask.end_ids if ask.ignore_eos else ask.end_ids | model.stop_ids),
            self._text.push if self._text else None,
            ask.logprobs,
            ask.echo,
        )

    def completion(self, progress: Progress) -> Completion:
        """The answer, once it is complete."""
        text = ""
        if self._text is not None:
            text = self._text.finished()
            if self._text.stops.hit:
                progress.finish = "stop"
        before = tuple(self.ids) if self.ask.echo else ()
        return Completion(
            self._echo + text,
            before + tuple(progress.tokens),
            progress.finish,
            progress.prompt_tokens,
            progress.seed,
            tuple(progress.logprobs),
        )


def complete_each(model: Model, asks: Sequence[Ask]) -> Iterator[tuple[int, Completion]]:
    """Answer all, and yield the number and the answer of each as it is complete; all are checked before the first."""
    return answers(model, [Asked(model, ask) for ask in asks])


def answers(model: Model, asked: Iterable[Asked]) -> Iterator[tuple[int, Completion]]:
    """As ``complete_each``; what is asked is taken as slots become free, and held until it is answered."""
    held: dict[int, Asked] = {}

    def requests() -> Iterator[Request]:
        for i, one in enumerate(asked):
            held[i] = one
            yield one.request

    done = complete(model.engine, requests())
    model._answering = done  # pyright: ignore[reportPrivateUsage]  # the two are one part
    while (found := model._next(done, done)) is not None:  # pyright: ignore[reportPrivateUsage]
        yield found[0], held.pop(found[0]).completion(found[1])


class _Text:
    """The text of one answer as it grows."""

    def __init__(self, decoder: StreamDecoder, stops: StopStrings) -> None:
        self._decoder, self.stops = decoder, stops
        self._pieces: list[str] = []

    def push(self, token: int) -> bool:
        self._pieces.append(self.stops.push(self._decoder.push(token)))
        return self.stops.hit

    def finished(self) -> str:
        self._pieces += [self.stops.push(self._decoder.flush()), self.stops.flush()]
        return "".join(self._pieces)
