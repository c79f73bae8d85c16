"""The Python API: compile a checkpoint, load a plan or a checkpoint, generate, look inside.

    plan = graphllm.compile("stories260K.bin", "stories.gllm", tokenizer="tok512.bin")
    model = graphllm.load("stories.gllm")
    print(model.generate("Once upon a time", max_tokens=100).text)
    for text in model.stream("Once upon a time"):
        print(text, end="")

It is composed of the parts below it and adds nothing to them: here is how models come to be, ``model`` has what they
can do, ``plan`` what can be seen of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from graphllm._version import __version__
from graphllm.api.answer import Answer, Completion
from graphllm.api.model import Model, PathLike
from graphllm.api.plan import Plan, Stage
from graphllm.compiler.link import Expand, LoweredForOther, module_of
from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.plan.plan_file import PlanFile, Verify, is_plan

if TYPE_CHECKING:
    from graphllm.compiler.compile import Progress
    from graphllm.compiler.options import Options
    from graphllm.frontends.overrides import Overrides
    from graphllm.ir.types import DType

Say: TypeAlias = Callable[[str], None]  # one line for the user, about something done on their behalf


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
    progress: Progress | None = None,
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
        PlanError: the plan cannot be written: no space, no permission, no such folder, the checkpoint's own name.
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
    kv_dtype: DType | None = None,
    dtype: DType | None = None,
    overrides: Overrides | None = None,
    expand: Expand = "auto",
    verify: Verify = "auto",
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> Model:
    """A model ready to run, from a plan or straight from a checkpoint (compiled once, then found in the cache).

    Args:
        path: a plan, or whatever ``compile`` takes.
        tokenizer: as for ``compile``; for a plan, to be used instead of its own.
        context, slots: as for ``compile``; 0 keeps a plan's own. Another value lowers the plan again, in memory, and so
            does a plan that another version of graphllm has made.
        kv_dtype: as for ``compile``; None keeps a plan's own, and is f32 for a checkpoint.
        dtype, overrides: as for ``compile``, and only for a checkpoint: a plan's weights are what they are.
        expand: whether 16-bit weights are expanded to f32 once (``always``, int8 groups too), converted as they are
            read (``never``), or expanded where memory allows (``auto``).
        verify: hash all weights first (``all``), only those of plans under 64 MiB (``auto``), or ``none``.
        progress: called with (what, done, total), when something must be compiled.
        say: is told in one line what was done without being asked for.

    Raises:
        CheckpointError, TokenizerError: as for ``compile``.
        PlanError: the plan is damaged, too new, or describes something that is not a model.
        RunError: the caches do not fit in memory, or an option is for checkpoints only.
        GraphLLMError: the base of these; by itself, an option out of range or a cache folder that cannot be used.
    """
    model = _load(Path(path), tokenizer, context, slots, kv_dtype, dtype, overrides, expand, verify, progress, say)
    if storage := model.engine.device.storage:
        say(storage)
    model.engine.device.prepare("decode")  # expands weights now, not while somebody waits for a token
    return model


def _load(
    source: Path,
    tokenizer: PathLike | None,
    context: int,
    slots: int,
    kv_dtype: DType | None,
    dtype: DType | None,
    overrides: Overrides | None,
    expand: Expand,
    verify: Verify,
    progress: Progress | None,
    say: Say,
) -> Model:
    for name, allowed, given in (("expand", get_args(Expand), expand), ("verify", get_args(Verify), verify)):
        if given not in allowed:
            raise RunError(f"{name}: {given!r}; expected {', '.join(allowed)}")
    if is_plan(source):
        if dtype is not None or (overrides is not None and overrides.given()):
            raise RunError(f"{source}: a plan; dtype and overrides are for checkpoints, compile that again with them")
    else:
        options = _options(context, slots or 1, kv_dtype or "f32", dtype, overrides)
        source, tokenizer, verify = _plan_of(source, tokenizer, options, verify, progress), None, "none"
    file = PlanFile.open(source, verify=verify)
    if context or slots or kv_dtype:
        from graphllm.compiler.record import steps_of

        if steps_of(file, context, slots, kv_dtype) != steps_of(file):
            return _lowered_again(file, context, slots, kv_dtype, expand, tokenizer, say)
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
    if steps == steps_of(file):
        say(f"lowered again: the plan was not lowered by graphllm {__version__} for numpy")
    else:
        say(f"lowered again for context {steps.context}, slots {steps.slots}, {steps.kv_dtype} cache")
    return Model(Plan(file), module, expand, tokenizer)


def _plan_of(
    source: Path,
    tokenizer: PathLike | None,
    options: Options,
    verify: Verify,
    progress: Progress | None,
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
    progress: Progress | None,
) -> Path:
    """Write the plan of a checkpoint to ``out``, or else to the cache, and say where it is."""
    from graphllm.compiler.cache import cached_path
    from graphllm.compiler.compile import compile_checkpoint, refuse_sources, tokenizer_for, write

    target = out if out is not None else cached_path(source, tokenizer, options)
    compiled = compile_checkpoint(source, options, dump)
    data = tokenizer_for(source, tokenizer, compiled.checkpoint.config.vocab)
    refuse_sources(target, source, tokenizer, compiled)
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


__all__ = ["Answer", "Completion", "GraphLLMError", "Model", "Plan", "Stage", "compile", "load"]
