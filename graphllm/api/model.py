"""A plan on a device: text in, text out; ids in, logits out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import index
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.api.answer import Answer, Completion, Prompt, sampler_config
from graphllm.api.plan import Plan
from graphllm.errors import PlanError, RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.device import Device
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import generate_batch
from graphllm.runtime.sampling import SamplerConfig
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer

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
        self._tokenizer_data = data
        self._answering: Answer | None = None  # whose tokens slot 0 holds
        self._one_thread = _OneThread()

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The plan's tokenizer, None where it has none. Raises TokenizerError when it is damaged or too big."""
        data = self._tokenizer_data
        return load_tokenizer(data, self.engine.vocab) if data is not None else None

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: the model's end tokens and the tokenizer's."""
        return stop_ids_of(self.plan.file, self.tokenizer)

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
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> Completion:
        """The whole answer to a prompt.

        Args:
            prompt: text, or token ids [T] as they are, 1 <= T <= the context.
            max_tokens: at most so many; None until something else ends it.
            stop: texts that end the answer and are not part of it. They need a tokenizer.
            ignore_eos: go on past end tokens.
            sampler: how tokens are chosen; or give its fields as keywords: temperature=0.8, top_k=40, top_p=0.95,
                min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed. Greedy by default.

        Raises:
            RunError: the prompt is empty or does not fit in the context, an id is outside the vocabulary, text or
                ``stop`` is given to a plan without a tokenizer, a setting is unknown or out of range, or the model
                gives logits that are not numbers.
            TokenizerError: the plan's tokenizer is damaged, or the prompt is not Unicode.
            PlanError: the plan's record of end tokens is damaged.
        """
        answer = Answer(self, prompt, max_tokens, stop, ignore_eos, sampler_config(sampler, settings))
        text = "".join(answer)
        p = answer.progress
        return Completion(text, tuple(p.tokens), p.finish, p.prompt_tokens, answer.seed)

    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = 256,
        stop: Sequence[str] = (),
        ignore_eos: bool = False,
        sampler: SamplerConfig | None = None,
        **settings: Any,
    ) -> Answer:
        """The answer piece by piece: iterate over the result for its text, in whole characters.

        Args and errors are those of ``generate``; those of the prompt's length come with the first piece. The pieces
        put together are its text.
        """
        return Answer(self, prompt, max_tokens, stop, ignore_eos, sampler_config(sampler, settings))

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
        config = sampler_config(sampler, settings)
        ids = [self.encode(p) for p in prompts]
        with self._one_thread:
            self._answering = None
            done = generate_batch(
                self.engine,
                ids,
                config,
                allowed=self.allowed,
                max_tokens=max_tokens,
                stop_ids=frozenset() if ignore_eos else self.stop_ids,
            )
        texts = [self._text(prompt, p.tokens) for prompt, p in zip(ids, done, strict=True)]
        return [
            Completion(text, tuple(p.tokens), p.finish, p.prompt_tokens, p.seed)
            for text, p in zip(texts, done, strict=True)
        ]

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

    def _text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """The text of an answer, as it follows its prompt."""
        if self.tokenizer is None:
            return ""
        decoder = self.tokenizer.stream(prompt)
        return "".join([*map(decoder.push, tokens), decoder.flush()])

    def _begin(self, answer: Answer) -> None:
        with self._one_thread:
            self._answering = answer
            self.engine.truncate(0)

    def _next(self, answer: Answer, tokens: Iterator[int]) -> int | None:
        """The next token of the answer that was begun last, None at its end."""
        with self._one_thread:
            if self._answering is not answer:
                raise RunError("answer: something else was begun on this model since; take an answer to its end first")
            return next(tokens, None)


def stop_ids_of(plan: PlanFile, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Ids that end a text: the config's and the tokenizer's. Raises PlanError where the config has something else."""
    recorded = plan.documents.get("config", {}).get("eos_ids", [])
    if not isinstance(recorded, list):
        raise PlanError(f"{plan.path}: its config: eos_ids; expected a list of token ids")
    own = tokenizer.eos_ids if tokenizer is not None else ()
    return frozenset((*(t for t in cast("list[object]", recorded) if isinstance(t, int)), *own))
