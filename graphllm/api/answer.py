"""Answers: one that is being generated, and one that is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from graphllm.errors import RunError
from graphllm.runtime.generate import Finish, Progress, check_count, generate_tokens
from graphllm.runtime.logprobs import TokenLogprob, check_logprobs
from graphllm.runtime.sampling import SamplerConfig, TokenChooser, make_sampler
from graphllm.runtime.stops import StopStrings

if TYPE_CHECKING:
    from graphllm.api.model import Model

Prompt: TypeAlias = str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        text: the generated text, without the prompt; '' for a model without a tokenizer.
        tokens: the generated ids, stop token excluded.
        finish: why it ended: ``stop`` an end token or stop text, ``length`` the tokens asked for, ``context`` full.
        prompt_tokens: how many ids the prompt was.
        seed: of the sampler; the same seed and settings give the same answer.
        logprobs: of each of ``tokens``, where they were asked for. They are the model's own, before temperature and
            cuts.

    With ``echo`` the prompt belongs to ``text``, ``tokens`` and ``logprobs``; its first token, which nothing precedes,
    has the log-probability 0.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    seed: int
    logprobs: tuple[TokenLogprob, ...] = ()


class Answer:
    """An answer being generated: iterate for its text, once. Made by ``Model.stream``.

    It begins with the first piece asked for. Another answer, ``logits`` or ``generate`` on the same model take its
    place: going on with it afterwards is a RunError.

    Attributes:
        prompt_ids: what the prompt was encoded to.
        progress: how far it is, why it ended and how fast it went.
        seed: of the sampler.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        max_tokens: int | None,
        stop: Sequence[str | int],
        ignore_eos: bool,
        config: SamplerConfig,
        *,
        logprobs: int | None = None,
        end_ids: frozenset[int] = frozenset(),
        keep: bool = False,
    ) -> None:
        """Args: those of ``Model.stream``; ``end_ids`` end it beside the model's own; ``keep`` what the cache has."""
        self.prompt_ids = model.encode(prompt)
        self.progress = Progress()
        check_count(max_tokens)
        check_logprobs(logprobs)
        texts, ids = stops_of(stop, model)
        sampler = make_sampler(config, model.engine.vocab, model.allowed, model.engine.weigher)
        self.seed = self.progress.seed = sampler.seed
        self._keep, self._logprobs = keep, logprobs
        self._stops = StopStrings(texts)
        self._tokenizer = model.tokenizer
        stop_ids = ids | (end_ids if ignore_eos else end_ids | model.stop_ids)
        self._tokens = self._generate(model, sampler, max_tokens, stop_ids)

    def tokens(self) -> Iterator[int]:
        """The answer's ids instead of its text; stop texts are not looked for."""
        return self._tokens

    def __iter__(self) -> Iterator[str]:
        if self._tokenizer is None:
            for _ in self._tokens:
                yield ""
            return
        decoder = self._tokenizer.stream(self.prompt_ids)
        for token in self._tokens:
            if piece := self._stops.push(decoder.push(token)):
                yield piece
            if self._stops.hit:
                self.progress.finish = "stop"
                return
        tail = self._stops.push(decoder.flush()) + self._stops.flush()
        if self._stops.hit:
            self.progress.finish = "stop"
        if tail:
            yield tail

    def _generate(
        self, model: Model, sampler: TokenChooser, max_tokens: int | None, stop_ids: frozenset[int]
    ) -> Iterator[int]:
        kept = model._begin(self, keep=self._keep)  # pyright: ignore[reportPrivateUsage]  # the two are one part
        tokens = generate_tokens(
            model.engine,
            self.prompt_ids,
            sampler,
            max_tokens=max_tokens,
            stop_ids=stop_ids,
            progress=self.progress,
            kept=kept,
            logprobs=self._logprobs,
        )
        while (token := model._next(self, tokens)) is not None:  # pyright: ignore[reportPrivateUsage]
            yield token


def sampler_config(sampler: SamplerConfig | None, settings: Mapping[str, Any]) -> SamplerConfig:
    """The settings as a SamplerConfig. Raises RunError for both at once, or a setting that does not exist."""
    if sampler is not None:
        if type(sampler) is not SamplerConfig:
            raise RunError(f"sampler: {sampler!r:.60}; expected a SamplerConfig, or its fields as keywords")
        if settings:
            raise RunError(f"sampler: given twice, as a config and as {', '.join(settings)}; expected one of the two")
        return sampler
    try:
        return SamplerConfig(**settings)
    except TypeError:
        known = ", ".join(SamplerConfig.__dataclass_fields__)
        unknown = ", ".join(k for k in settings if k not in SamplerConfig.__dataclass_fields__)
        raise RunError(f"sampler: no setting called {unknown}; expected some of {known}") from None


def stops_of(stop: Any, model: Model) -> tuple[list[str], frozenset[int]]:
    """The texts and the token ids that end an answer.

    Raises RunError unless ``stop`` is a list of such, ids of the vocabulary, and no texts for a model that has none.
    """
    items = cast("list[Any]", stop if isinstance(stop, list | tuple) else [None])
    texts = [item for item in items if isinstance(item, str)]
    ids = [item for item in items if type(item) is int and 0 <= item < model.engine.vocab]
    if len(texts) + len(ids) != len(items):
        raise RunError(f"stop: {stop!r:.60}; expected a list of texts, and of token ids below {model.engine.vocab}")
    if texts and model.tokenizer is None:
        raise RunError("stop: this plan has no tokenizer, so an answer has no text; stop by max_tokens or token ids")
    return texts, frozenset(ids)
