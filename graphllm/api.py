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
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from graphllm._version import __version__
from graphllm.compiler.link import Expand, LoweredForOther, link_numpy, module_of
from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile, is_plan
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Finish, Progress, generate_batch, generate_tokens
from graphllm.runtime.sampling import Sampler, SamplerConfig
from graphllm.runtime.stops import StopStrings
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from graphllm.compiler.options import Options
    from graphllm.frontends.overrides import Overrides
    from graphllm.ir.types import DType

PathLike: TypeAlias = str | os.PathLike[str]
Prompt: TypeAlias = str | Sequence[int]
Stage = Literal["traced", "optimised", "lowered"]
Verify = Literal["auto", "all", "none"]
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
        tokenizer: its tokenizer, when that does not lie beside it. A model may have none.
        context: positions S of the KV cache, f32 or f16 [slots,K,S,d] twice a layer; 0 = the model's own, at most 4096.
        slots: sequences held at once.
        kv_dtype: f32 or f16, what the KV cache stores.
        dtype: f32, f16 or bf16, what matrices are stored in; None keeps the checkpoint's. Arithmetic is f32.
        overrides: norm eps, RoPE and the like where the checkpoint does not say (``frontends.overrides``).
        dump_ir: a folder for the IR after every pass.
        progress: called with (what, done, total).

    Raises:
        CheckpointError: the checkpoint cannot be read, is damaged, is not supported, or changed while it was read.
        TokenizerError: its tokenizer cannot be read, or has more ids than the model.
        PassError: ``dump_ir`` cannot be written.
        PlanError: the plan cannot be written: no space, no permission, no such folder.
        GraphLLMError: the base of these; by itself, an option out of range or a cache that cannot be used.
        All in one line; whatever ends it, no part of a plan is left behind and an older one stays as it was.
    """
    options = _options(context, slots, kv_dtype, dtype, overrides)
    source, vocabulary = Path(path), Path(tokenizer) if tokenizer is not None else None
    target = Path(out) if out is not None else None
    dump = Path(dump_ir) if dump_ir is not None else None
    return Plan(PlanFile.open(_compile(source, vocabulary, options, target, dump, progress), verify="none"))


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
    verify: Verify = "auto",
    progress: Callable[[str, int, int], None] | None = None,
    say: Say = lambda line: None,
) -> Model:
    """A model ready to run, from a plan or straight from a checkpoint (compiled once, then found in the cache).

    Args:
        path: a plan, or whatever ``compile`` takes.
        tokenizer: as for ``compile``; for a plan, to be used instead of its own.
        context, slots: as for ``compile``; 0 keeps a plan's own. Another value lowers the plan again, in memory, and so
            does a plan that another version of graphllm has made.
        kv_dtype: as for ``compile``; f16 lowers a plan again that was compiled for f32.
        dtype, overrides: as for ``compile``, and only for a checkpoint: a plan's weights are what they are.
        expand: whether 16-bit weights are expanded to f32 once (``always``), converted as they are read (``never``),
            or expanded where memory allows (``auto``).
        verify: hash all weights first (``all``), only those of plans under 64 MiB (``auto``), or ``none``.
        progress: called with (what, done, total), when something must be compiled.
        say: is told in one line what was done without being asked for.

    Raises:
        CheckpointError, TokenizerError: as for ``compile``.
        PlanError: the plan is damaged, too new, or describes something that is not a model.
        RunError: the caches do not fit in memory, or an option is for checkpoints only.
        GraphLLMError: the base of these; by itself, an option out of range or a cache folder that cannot be used.
    """
    source = Path(path)
    for name, allowed, given in (("expand", get_args(Expand), expand), ("verify", get_args(Verify), verify)):
        if given not in allowed:
            raise RunError(f"{name}: {given!r}; expected {', '.join(allowed)}")
    if is_plan(source):
        if dtype is not None or (overrides is not None and overrides.given()):
            raise RunError(f"{source}: a plan; dtype and overrides are for checkpoints, compile that again with them")
    else:
        options = _options(context, slots or 1, kv_dtype, dtype, overrides)
        source, tokenizer, verify = _plan_of(source, tokenizer, options, verify, progress), None, "none"
    file = PlanFile.open(source, verify=verify)
    kv = kv_dtype if kv_dtype != "f32" else None
    if context or slots or kv:
        from graphllm.compiler.record import steps_of

        if steps_of(file, context, slots, kv) != steps_of(file):
            return _lowered_again(file, context, slots, kv, expand, tokenizer, say)
    made_by = file.documents.get("provenance", {}).get("graphllm")
    if made_by == __version__ and "lowered/numpy" in file.sections:
        try:
            return Model(Plan(file), module_of(file, "lowered/numpy"), expand, tokenizer)
        except LoweredForOther:
            pass
    return _lowered_again(file, 0, 0, None, expand, tokenizer, say)


def _lowered_again(
    file: PlanFile,
    context: int,
    slots: int,
    kv_dtype: DType | None,
    expand: Expand,
    tokenizer: PathLike | None,
    say: Say,
) -> Model:
    """A plan's portable IR lowered here and now: for other step sizes, or as this version of graphllm does it."""
    from graphllm.compiler.record import steps_of
    from graphllm.compiler.relower import relowered

    steps = steps_of(file, context, slots, kv_dtype)
    module = relowered(file, steps)
    say(f"lowered again for context {steps.context}, slots {steps.slots}, {steps.kv_dtype} cache")
    return Model(Plan(file), module, expand, tokenizer)


def _plan_of(
    source: Path,
    tokenizer: PathLike | None,
    options: Options,
    verify: Verify,
    progress: Callable[[str, int, int], None] | None,
) -> Path:
    """The cached plan of a checkpoint, verified, made when it is not there or no longer good."""
    from graphllm.compiler.cache import cached_path

    vocabulary = Path(tokenizer) if tokenizer is not None else None
    target = cached_path(source, vocabulary, options)
    if target.is_file():
        try:
            PlanFile.open(target, verify=verify).close()
            return target
        except PlanError:
            pass  # damaged, and made again below; the new one takes its place
    return _compile(source, vocabulary, options, None, None, progress)


def _compile(
    source: Path,
    tokenizer: Path | None,
    options: Options,
    out: Path | None,
    dump: Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> Path:
    """Write the plan of a checkpoint to ``out``, or else to the cache, and say where it is."""
    from graphllm.compiler.cache import cached_path
    from graphllm.compiler.compile import compile_checkpoint, tokenizer_for, write

    target = out if out is not None else cached_path(source, tokenizer, options)
    compiled = compile_checkpoint(source, options, dump)
    data = tokenizer_for(source, tokenizer, compiled.checkpoint.config.vocab)
    try:
        write(target, compiled, data, options, progress)
    except PlanError as error:
        if out is not None:
            raise
        raise PlanError(
            f"{error}; this is the cache: set GRAPHLLM_CACHE to another folder, or compile to a file"
        ) from None
    return target


def _options(context: int, slots: int, kv_dtype: DType, dtype: DType | None, overrides: Overrides | None) -> Options:
    from graphllm.compiler.options import Options
    from graphllm.frontends.overrides import NO_OVERRIDES

    return Options(context, slots, kv_dtype, dtype, overrides or NO_OVERRIDES)


class Plan:
    """An open plan: what it says, and its IR at every stage. Mappings are JSON as it was recorded."""

    def __init__(self, file: PlanFile) -> None:
        self.file = file

    @property
    def path(self) -> Path:
        """Where the plan lies."""
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
        """The portable IR, verified: ``print(graphllm.ir.print_module(plan.module))``. Raises PlanError."""
        return module_of(self.file, "ir")

    @cached_property
    def lowered(self) -> Module:
        """The IR as the NumPy target runs it, verified: kernels, order, memory. Raises PlanError."""
        return module_of(self.file, "lowered/numpy")

    def stage(self, name: Stage) -> Module:
        """The module as it was ``traced``, ``optimised`` by the portable passes, or ``lowered``. Raises PlanError."""
        if name == "traced":
            from graphllm.compiler.relower import traced

            return traced(self.file)
        if name not in get_args(Stage):
            raise RunError(f"stage: {name!r}; expected {', '.join(get_args(Stage))}")
        return self.module if name == "optimised" else self.lowered

    @property
    def source(self) -> str:
        """The generated Python, as it was when the plan was made; running generates it afresh."""
        return self.file.sections.get("source/numpy", "")

    def close(self) -> None:
        """Let go of the file; arrays taken from it stay good."""
        self.file.close()


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


class Model:
    """A plan on a device. One answer at a time, and not for several threads at once; made by ``load``.

    Attributes:
        plan: the plan it runs.
        lowered: the module it runs, the plan's own or one lowered again for another context.
        engine: sequences on the device, for those who choose tokens themselves: ``engine.feed``, ``engine.step``.
    """

    def __init__(self, plan: Plan, lowered: Module, expand: Expand = "auto", tokenizer: PathLike | None = None) -> None:
        self.plan, self.lowered = plan, lowered
        self.engine = Engine(link_numpy(plan.file, lowered, expand), lowered)
        data = plan.file.tokenizer
        if tokenizer is not None:
            from graphllm.frontends.tokenizer_file import find_tokenizer

            data = find_tokenizer(Path(tokenizer), Path(tokenizer))
        self._tokenizer_data = data
        self._answering: Answer | None = None  # whose tokens slot 0 holds

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The plan's tokenizer, None where it has none. Raises TokenizerError when it is damaged or too big."""
        data = self._tokenizer_data
        return load_tokenizer(data, self.engine.vocab) if data is not None else None

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a text: the model's end tokens and the tokenizer's."""
        recorded = self.plan.config.get("eos_ids", [])
        if not isinstance(recorded, list):
            raise PlanError(f"{self.plan.path}: its config: eos_ids; expected a list of token ids")
        own = self.tokenizer.eos_ids if self.tokenizer is not None else ()
        return frozenset((*(t for t in cast("list[object]", recorded) if isinstance(t, int)), *own))

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
            RunError: the prompt is empty or does not fit in the context, an id is outside the vocabulary, text is
                given to a plan without a tokenizer, or a setting is out of range.
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
        self._answering = answer
        self.engine.truncate(0)


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
        if isinstance(stop, str):
            raise RunError(f"stop: {stop!r}; expected a list of texts")
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
        for token in tokens:
            yield token
            if model._answering is not self:  # pyright: ignore[reportPrivateUsage]
                raise RunError("answer: something else was begun on this model since; take an answer to its end first")


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
