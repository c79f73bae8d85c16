"""The Python API: compile a checkpoint, load a plan or a checkpoint, generate, look inside.

    plan = graphllm.compile("stories260K.bin", "stories.gllm", tokenizer="tok512.bin")
    model = graphllm.load("stories.gllm")
    print(model.generate("Once upon a time", max_tokens=100).text)
    for text in model.stream("Once upon a time"):
        print(text, end="")

It is composed of the parts below it and adds nothing to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphllm.compiler.link import Expand, link_numpy, module_of
from graphllm.errors import GraphLLMError, RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Finish, Progress, generate_batch, generate_tokens
from graphllm.runtime.sampling import Sampler, SamplerConfig
from graphllm.runtime.stops import StopStrings
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from graphllm.frontends.overrides import Overrides
    from graphllm.ir.types import DType

PathLike: TypeAlias = str | os.PathLike[str]
Prompt: TypeAlias = str | Sequence[int]
Stage = Literal["traced", "optimised", "lowered"]
Say = Callable[[str], None]  # one line for the user, about something done on their behalf


def compile(
    path: PathLike,
    out: PathLike | None = None,
    *,
    tokenizer: PathLike | None = None,
    context: int = 0,
    slots: int = 1,
    kv_dtype: DType = "f32",
    dtype: DType | None = None,
    overrides: Overrides | None = None,
    dump_ir: PathLike | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Plan:
    """Compile a checkpoint into a plan file and open it.

    Args:
        path: a llama2.c ``.bin`` file or a Hugging Face folder; the format is found by content.
        out: the plan to write; without it the plan goes into the cache, where ``load(path)`` will find it.
        tokenizer: its tokenizer, when that does not lie beside it.
        context: positions of the KV cache; 0 = the model's own, at most 4096.
        slots: sequences held at once.
        kv_dtype: f32 or f16, what the KV cache stores.
        dtype: f32, f16 or bf16, what matrices are stored in; None keeps the checkpoint's.
        overrides: norm eps, RoPE and the like where the checkpoint does not say (``frontends.overrides``).
        dump_ir: a folder for the IR after every pass.
        progress: called with (what, done, total).

    Raises:
        CheckpointError, TokenizerError, PassError, PlanError: in one line, what is wrong; no file is left behind.
    """
    from graphllm.compiler.cache import cached_path
    from graphllm.compiler.compile import compile_checkpoint, tokenizer_for, write

    options = _options(context, slots, kv_dtype, dtype, overrides)
    source, vocabulary = Path(path), Path(tokenizer) if tokenizer is not None else None
    compiled = compile_checkpoint(source, options, Path(dump_ir) if dump_ir is not None else None)
    data = tokenizer_for(source, vocabulary, compiled.checkpoint.config.vocab)
    target = Path(out) if out is not None else cached_path(source, vocabulary, options)
    write(target, compiled, data, options, progress)
    return Plan(PlanFile.open(target, verify="none"))


def load(
    path: PathLike,
    *,
    tokenizer: PathLike | None = None,
    context: int = 0,
    slots: int = 0,
    kv_dtype: DType = "f32",
    dtype: DType | None = None,
    overrides: Overrides | None = None,
    expand: Expand = "auto",
    verify: Literal["auto", "all", "none"] = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    say: Say = lambda line: None,
) -> Model:
    """A model ready to run, from a plan or straight from a checkpoint (compiled once, then found in the cache).

    Args:
        path: a plan, or whatever ``compile`` takes.
        tokenizer, kv_dtype, dtype, overrides: as for ``compile``; only for a checkpoint (``tokenizer`` for both).
        context, slots: as for ``compile``; 0 keeps a plan's own. Another value lowers the plan again, in memory.
        expand: whether 16-bit weights are expanded to f32 once (``always``), converted as they are read (``never``),
            or expanded where memory allows (``auto``).
        verify: hash all weights first, only those of small plans (``auto``), or none.
        say: is told in one line what was done without being asked for.

    Raises:
        GraphLLMError: in one line, what is wrong.
    """
    source = Path(path)
    if not is_plan(source):
        source = _plan_of(source, tokenizer, _options(context, slots or 1, kv_dtype, dtype, overrides), progress)
        tokenizer = None
    file = PlanFile.open(source, verify=verify)
    if context or slots:
        from graphllm.compiler.relower import relowered, steps_of

        if steps_of(file) != steps_of(file, context, slots):
            module = relowered(file, context, slots)
            say(f"lowered again for context {context or 'as it was'}, slots {slots or 'as they were'}")
            return Model(Plan(file), module, expand, tokenizer)
    return Model(Plan(file), module_of(file, "lowered/numpy"), expand, tokenizer)


def is_plan(path: Path) -> bool:
    """Whether a file says that it is a plan. What cannot be read is not one; the reader will say why."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as f:
            head = f.read(4096)
    except (OSError, ValueError):
        return False
    return head[8:9] == b"{" and b'"__metadata__"' in head and b'"gllm"' in head


def _plan_of(
    source: Path,
    tokenizer: PathLike | None,
    options: Any,
    progress: Callable[[str, int, int], None] | None,
) -> Path:
    """The cached plan of a checkpoint, made when it is not there or no longer good."""
    from graphllm.compiler.cache import cached_path
    from graphllm.compiler.compile import compile_checkpoint, tokenizer_for, write
    from graphllm.errors import PlanError

    vocabulary = Path(tokenizer) if tokenizer is not None else None
    target = cached_path(source, vocabulary, options)
    if target.is_file():
        try:
            PlanFile.open(target).close()
            return target
        except PlanError:
            target.unlink(missing_ok=True)  # damaged: made again below
    compiled = compile_checkpoint(source, options)
    write(target, compiled, tokenizer_for(source, vocabulary, compiled.checkpoint.config.vocab), options, progress)
    return target


def _options(context: int, slots: int, kv_dtype: DType, dtype: DType | None, overrides: Overrides | None) -> Any:
    from graphllm.compiler.options import Options
    from graphllm.frontends.overrides import NO_OVERRIDES

    return Options(context, slots, kv_dtype, dtype, overrides or NO_OVERRIDES)


class Plan:
    """An open plan: what it says, and its IR at every stage."""

    def __init__(self, file: PlanFile) -> None:
        self.file = file

    @property
    def path(self) -> Path:
        return self.file.path

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config: dim, layers, heads …"""
        return self.file.documents.get("config", {})

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Source files with their hashes, what the reader assumed, versions."""
        return self.file.documents.get("provenance", {})

    @property
    def report(self) -> Mapping[str, Any]:
        """What each pass did."""
        return self.file.documents.get("report", {})

    @cached_property
    def module(self) -> Module:
        """The portable IR: ``print(graphllm.ir.print_module(plan.module))``."""
        return module_of(self.file, "ir")

    @cached_property
    def lowered(self) -> Module:
        """The IR as the NumPy target runs it: kernels, order, memory."""
        return module_of(self.file, "lowered/numpy")

    def stage(self, name: Stage) -> Module:
        """The module as it was traced, after the portable passes, or lowered."""
        if name == "traced":
            from graphllm.compiler.relower import traced

            return traced(self.file)
        return self.module if name == "optimised" else self.lowered

    @property
    def source(self) -> str:
        """The generated Python, as it was when the plan was made; running generates it afresh."""
        return self.file.sections.get("source/numpy", "")

    def close(self) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        text: the generated text, without the prompt; '' for a model without a tokenizer.
        tokens: the generated ids, stop token excluded.
        finish: why it ended: ``stop``, ``length`` or ``context``.
        prompt_tokens: how many ids the prompt was.
        seed: of the sampler; the same seed and settings give the same answer.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Finish
    prompt_tokens: int
    seed: int


class Model:
    """A plan on a device. Not for several threads at once."""

    def __init__(self, plan: Plan, lowered: Module, expand: Expand = "auto", tokenizer: PathLike | None = None) -> None:
        self.plan = plan
        self.engine = Engine(link_numpy(plan.file, lowered, expand), lowered)
        data = plan.file.tokenizer
        if tokenizer is not None:
            from graphllm.frontends.tokenizer_file import find_tokenizer

            data = find_tokenizer(Path(tokenizer), Path(tokenizer))
        self._tokenizer_data = data

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The plan's tokenizer, None where it has none."""
        data = self._tokenizer_data
        return load_tokenizer(data, self.engine.vocab) if data is not None else None

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: the model's end tokens and the tokenizer's."""
        own = self.tokenizer.eos_ids if self.tokenizer is not None else ()
        return frozenset((*self.plan.config.get("eos_ids", ()), *own))

    def encode(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt; ids pass through. Raises RunError for text when there is no tokenizer."""
        if not isinstance(prompt, str):
            return list(prompt)
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
            prompt: text, or token ids as they are.
            max_tokens: at most so many; None until something else ends it.
            stop: texts that end the answer and are not part of it.
            ignore_eos: go on past end tokens.
            sampler: how tokens are chosen; or give its fields as keywords: temperature=0.8, top_k=40, top_p=0.95,
                min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed. Greedy by default.

        Raises:
            RunError: the prompt does not fit, or a setting is out of range.
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
        """The answer piece by piece, as ``generate`` would give it: iterate over the result for text."""
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
        """Answers to several prompts, decoded side by side; at most as many as the model has slots."""
        config = sampler_config(sampler, settings)
        stops = frozenset[int]() if ignore_eos else self.stop_ids
        done = generate_batch(
            self.engine,
            [self.encode(p) for p in prompts],
            config,
            allowed=self.allowed,
            max_tokens=max_tokens,
            stop_ids=stops,
        )
        return [Completion(self._text(p), tuple(p.tokens), p.finish, p.prompt_tokens, p.seed) for p in done]

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits f32 [T,V] at every position of ``ids`` [T]. Raises RunError when they do not fit in the context."""
        self.engine.truncate(0)
        out = np.empty((len(ids), self.engine.vocab), np.float32)
        at = 0
        for block in self.engine.score(ids):
            out[at : at + len(block)] = block
            at += len(block)
        return out

    @property
    def allowed(self) -> int:
        """Ids below this one may be sampled: a model may have more rows than its tokenizer has tokens."""
        return min(self.engine.vocab, self.tokenizer.vocab_size) if self.tokenizer is not None else self.engine.vocab

    def _text(self, progress: Progress) -> str:
        return self.tokenizer.decode(progress.tokens) if self.tokenizer is not None else ""


class Answer:
    """An answer being generated: iterate for its text, once. ``progress`` tells how far it is and how fast it went."""

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
        sampler = Sampler(config, model.engine.vocab, model.allowed)
        self.seed = sampler.seed
        self._stops = StopStrings(stop)
        self._tokenizer = model.tokenizer
        model.engine.truncate(0)
        model.engine.check(self.prompt_ids)  # now, not when the first piece of text is asked for
        self._tokens = generate_tokens(
            model.engine,
            self.prompt_ids,
            sampler,
            max_tokens=max_tokens,
            stop_ids=frozenset() if ignore_eos else model.stop_ids,
            progress=self.progress,
        )

    def tokens(self) -> Iterator[int]:
        """The answer's ids instead of its text."""
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


def sampler_config(sampler: SamplerConfig | None, settings: Mapping[str, Any]) -> SamplerConfig:
    """The settings as a SamplerConfig. Raises RunError for both at once, or a setting that does not exist."""
    if sampler is not None:
        if settings:
            raise RunError(f"sampler: given twice, as a config and as {', '.join(settings)}; expected one of the two")
        return sampler
    try:
        return SamplerConfig(**settings)
    except TypeError:
        known = ", ".join(SamplerConfig.__dataclass_fields__)
        unknown = ", ".join(k for k in settings if k not in SamplerConfig.__dataclass_fields__)
        raise RunError(f"sampler: no setting called {unknown}; expected some of {known}") from None


__all__ = ["Answer", "Completion", "GraphLLMError", "Model", "Plan", "compile", "load"]
