"""A plan on a device: text in, text out; ids in, logits out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from operator import index
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.api.answer import Answer, Completion, Prompt, sampler_config
from graphllm.api.plan import Plan
from graphllm.errors import PlanError, RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.batch import numbered
from graphllm.runtime.device import Device
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import SamplerConfig
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from graphllm.api.chat import Chat

Item = TypeVar("Item")
PathLike: TypeAlias = str | os.PathLike[str]


class _OneThread:
    """Held while the device computes for a model. Two threads would write into each other's memory, unnoticed."""

    def __init__(self) -> None:
        self._lock = Lock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RunError("model: another thread is using it; use it from one at a time, or load a model for each")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Model:
    """A plan on a device. One answer at a time, and not for several threads at once; made by ``load``.

    Attributes:
        plan: the plan it runs.
        lowered: the module it runs, the plan's own or one lowered again for another target or context.
        engine: sequences on the device, for those who choose tokens themselves: ``engine.feed``, ``engine.step``.
    """

    def __init__(self, plan: Plan, lowered: Module, device: Device, tokenizer: PathLike | None = None) -> None:
        self.plan, self.lowered = plan, lowered
        self.engine = Engine(device, lowered)
        data = plan.file.tokenizer
        if tokenizer is not None:
            from graphllm.frontends.tokenizer_file import find_tokenizer

            data = find_tokenizer(Path(tokenizer), Path(tokenizer))
        self.tokenizer_data = data
        self._answering: object = None  # what was begun last; an Answer's tokens are in slot 0
        self._one_thread = _OneThread()

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The plan's tokenizer, None where it has none. Raises TokenizerError when it is damaged or too big."""
        data = self.tokenizer_data
        if data is None:
            return None
        from graphllm.compiler.tokenizer_index import kept_index

        return load_tokenizer(data, self.engine.vocab, kept_index(data))

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: the model's end tokens and the tokenizer's."""
        return stop_ids_of(self.plan.file, self.tokenizer)

    @cached_property
    def sampling(self) -> dict[str, Any]:
        """The sampler's settings that the model's makers advise, as keywords of ``generate``; {} where none are known.

        Raises PlanError where the plan's record of them is damaged.
        """
        recorded = self.plan.file.documents.get("sampling", {})
        try:
            return {name: value for name, value in recorded.items() if sampler_config(None, {name: value})}
        except RunError as error:
            raise PlanError(f"{self.plan.path}: its record of sampling: {error}") from None

    @cached_property
    def allowed(self) -> int:
        """Ids below this one may be sampled: a model may have more rows than its tokenizer has tokens."""
        return min(self.engine.vocab, self.tokenizer.vocab_size) if self.tokenizer is not None else self.engine.vocab

    def encode(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, special tokens and all; ids pass through.

        Raises:
            RunError: text for a plan without a tokenizer, or ids that are not whole numbers.
            TokenizerError: text that is not Unicode.
        """
        if not isinstance(prompt, str):
            try:
                if isinstance(prompt, bytes | bytearray):
                    raise TypeError  # whole numbers too, but nobody means them as ids
                return [index(token) for token in prompt]
            except TypeError:
                raise RunError(f"prompt: expected text or a list of token ids, got {str(prompt)[:40]!r}") from None
        if self.tokenizer is None:
            raise RunError("prompt: this plan has no tokenizer; give token ids, or compile with --tokenizer")
        return self.tokenizer.encode(prompt)

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = 256,
        stop: Sequence[str | int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> Completion:
        """The whole answer to a prompt.

        Args:
            prompt: text, or token ids [T] as they are, 1 <= T <= the context.
            max_tokens: at most so many; None until something else ends it.
            stop: what ends the answer and is not part of it: texts, which need a tokenizer, and token ids.
            ignore_eos: go on past end tokens.
            logprobs: keep each token's log-probability, and those of so many likeliest tokens in its place.
            sampler: how tokens are chosen; or give its fields as keywords: temperature=0.8, top_k=40, top_p=0.95,
                min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed, variant. Greedy by
                default.

        Raises:
            RunError: the prompt is empty or does not fit in the context, an id is outside the vocabulary, text or
                ``stop`` is given to a plan without a tokenizer, a setting is unknown or out of range, or the model
                gives logits that are not numbers.
            TokenizerError: the plan's tokenizer is damaged, or the prompt is not Unicode.
            PlanError: the plan's record of end tokens is damaged.
        """
        config = sampler_config(sampler, settings)
        answer = Answer(self, prompt, max_tokens, stop, ignore_eos, config, logprobs=logprobs)
        text = "".join(answer)
        p = answer.progress
        return Completion(text, tuple(p.tokens), p.finish, p.prompt_tokens, answer.seed, tuple(p.logprobs))

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = 256,
        stop: Sequence[str | int] = (),
        ignore_eos: bool = False,
        logprobs: int | None = None,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> Answer:
        """The answer piece by piece: iterate over the result for its text, in whole characters.

        Args and errors are those of ``generate``; those of the prompt's length come with the first piece. The pieces
        put together are its text.
        """
        config = sampler_config(sampler, settings)
        return Answer(self, prompt, max_tokens, stop, ignore_eos, config, logprobs=logprobs)

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = 256,
        ignore_eos: bool = False,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> list[Completion]:
        """Answers to several prompts, decoded side by side; at most as many as the model has slots.

        No answer depends on the other prompts. Prompt i samples with ``seed + i`` where a seed is given. Args and
        errors are those of ``generate``; more prompts than slots are a RunError too.
        """
        if len(prompts) > self.engine.slots:
            raise RunError(
                f"batch: {len(prompts)} prompts; this plan holds {self.engine.slots} at once, choose more --slots"
            )
        return self.complete(prompts, max_tokens=max_tokens, ignore_eos=ignore_eos, sampler=sampler, **settings)

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int | None = 256,
        stop: Sequence[str | int] = (),
        ignore_eos: bool = False,
        echo: bool = False,
        logprobs: int | None = None,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> list[Completion]:
        """Completions of any number of prompts of any lengths, in their order; as many at once as there are slots.

        Each is what it would be alone. Prompt i samples with ``seed + i`` where a seed is given.

        Args:
            prompts: texts or token ids.
            echo: the prompt is part of the completion, with its log-probabilities where they are asked for.
            logprobs: keep each token's log-probability, and those of so many likeliest tokens in its place.
            max_tokens, stop, ignore_eos, sampler, settings: as for ``generate``.

        Raises:
            RunError, TokenizerError, PlanError: as ``generate``, before anything is answered.
        """
        from graphllm.api.complete import Ask, complete_each

        config = sampler_config(sampler, settings)
        asks = [
            Ask(prompt, max_tokens, stop, ignore_eos, echo, logprobs, numbered(config, i))
            for i, prompt in enumerate(prompts)
        ]
        return [answer for _, answer in sorted(complete_each(self, asks), key=lambda pair: pair[0])]

    def chat(
        self,
        *,
        system: str | None = None,
        template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> Chat:
        """A dialogue with the model: ``for piece in model.chat().say("Hello"): …``.

        Args:
            system: what the model is told before the first message.
            template: what puts messages together: Jinja, the name of one that came with the model, or one of
                ``runtime.chat.named.NAMES``; None = the model's own.
            tools: JSON descriptions of functions, for templates that know them.
            variables: what else a template knows: ``enable_thinking``, ``date_string`` …

        Raises:
            RunError: no template is known for this model, there is none of that name, or no tokenizer.
            TokenizerError: the plan's tokenizer is damaged.
        """
        from graphllm.api.chat import Chat, format_for

        return Chat(self, format_for(self, template, variables), system=system, tools=tools)

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits f32 [T,V] at every position of ``ids`` [T]; row t is the prediction after ``ids[:t + 1]``.

        Raises:
            RunError: no ids, more than the context holds, or one outside the vocabulary.
        """
        ids = self.encode(ids)
        with self._one_thread:
            self._answering = None
            self.engine.truncate(0)
            blocks = self.engine.score(ids)
            first = np.array(next(blocks))  # the ids are checked before room is made for all of them
            out = np.empty((len(ids), self.engine.vocab), np.float32)
            out[: len(first)], at = first, len(first)
            for block in blocks:
                out[at : at + len(block)] = block
                at += len(block)
        return out

    def _begin(self, answer: Answer, *, keep: bool) -> int:
        """How many tokens of the prompt the cache still has from the answer before; none unless they are to be kept."""
        with self._one_thread:
            before, self._answering = self._answering, answer
            kept = 0
            if keep and isinstance(before, Answer):
                held = [*before.prompt_ids, *before.progress.tokens][: self.engine.lengths[0]]
                shared = zip(held, answer.prompt_ids[:-1], strict=False)  # the last one is fed: its logits are wanted
                kept = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], shared))
            self.engine.truncate(kept)
            return kept

    def _next(self, who: object, tokens: Iterator[Item]) -> Item | None:
        """The next of what was begun last, None at its end."""
        with self._one_thread:
            if self._answering is not who:
                raise RunError("answer: something else was begun on this model since; take an answer to its end first")
            return next(tokens, None)


def stop_ids_of(plan: PlanFile, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Ids that end a text: the config's and the tokenizer's. Raises PlanError where the config has something else."""
    recorded = plan.documents.get("config", {}).get("eos_ids", [])
    if not isinstance(recorded, list):
        raise PlanError(f"{plan.path}: its config: eos_ids; expected a list of token ids")
    own = tokenizer.eos_ids if tokenizer is not None else ()
    return frozenset((*(t for t in cast("list[object]", recorded) if isinstance(t, int)), *own))
