"""Answers: one that is being generated, and one that is complete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from graphllm.errors import RunError
from graphllm.runtime.generate import Finish, Progress, check_count, generate_tokens
from graphllm.runtime.sampling import Sampler, SamplerConfig
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
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    seed: int


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
        stop: Sequence[str],
        ignore_eos: bool,
        config: SamplerConfig,
    ) -> None:
        self.prompt_ids = model.encode(prompt)
        self.progress = Progress()
        check_count(max_tokens)
        _check_texts("stop", stop)
        if stop and model.tokenizer is None:
            raise RunError(
                "stop: this plan has no tokenizer, so an answer has no text; stop by max_tokens or end tokens"
            )
        sampler = Sampler(config, model.engine.vocab, model.allowed)
        self.seed = sampler.seed
        self._stops = StopStrings(stop)
        self._tokenizer = model.tokenizer
        self._tokens = self._generate(model, sampler, max_tokens, frozenset() if ignore_eos else model.stop_ids)

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
        self, model: Model, sampler: Sampler, max_tokens: int | None, stop_ids: frozenset[int]
    ) -> Iterator[int]:
        model._begin(self)  # pyright: ignore[reportPrivateUsage]  # the two are one part
        tokens = generate_tokens(
            model.engine, self.prompt_ids, sampler, max_tokens=max_tokens, stop_ids=stop_ids, progress=self.progress
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


def _check_texts(name: str, given: Any) -> None:
    if not isinstance(given, list | tuple) or not all(isinstance(text, str) for text in cast("list[Any]", given)):
        raise RunError(f"{name}: {given!r:.60}; expected a list of texts")
