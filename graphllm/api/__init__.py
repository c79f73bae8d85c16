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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, get_args

from graphllm.api.answer import Answer, Completion
from graphllm.api.lowered import Say, Wanted
from graphllm.api.model import Model, PathLike
from graphllm.api.plan import Plan, Stage
from graphllm.api.source import source_of
from graphllm.compiler.link import Expand, LoweredForOther
from graphllm.errors import GraphLLMError, NativeError, PlanError, RunError
from graphllm.plan.plan_file import PlanFile, Verify, is_plan

if TYPE_CHECKING:
    from graphllm.compiler.compile import Progress
    from graphllm.compiler.options import Options
    from graphllm.compiler.quality import TextCost
    from graphllm.compiler.targets import DeviceName, TargetName
    from graphllm.frontends.overrides import Overrides
    from graphllm.ir.core import Module
    from graphllm.ir.types import DType
    from graphllm.passes.quantize_int8 import Mode, Quantization
    from graphllm.runtime.device import Device


def compile(
    path: PathLike,
    out: PathLike | None = None,
    *,
    tokenizer: PathLike | None = None,
    context: int = 0,
    slots: int = 1,
    kv_dtype: DType | None = None,
    dtype: DType | None = None,
    quantize: Quantization | Mode | None = None,
    overrides: Overrides | None = None,
    target: TargetName | None = None,
    archs: Sequence[str] = (),
    measure: bool = False,
    calibrate: PathLike | None = None,
    dump_ir: PathLike | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Compile a checkpoint into a plan file and open it.

    Args:
        path: a file of llama2.c or KuiperLLama, or a folder of Hugging Face or Meta; found by content. ``demo``
            is our own.
        out: the plan to write; without it the plan goes into the cache, where ``load(path)`` will find it.
        tokenizer: its tokenizer, when that does not lie beside it. A model may have none.
        context: positions S of the KV cache, f32 or f16 [slots,K,S,d] twice a layer; 0 = the model's own, at most 4096.
        slots: sequences held at once.
        kv_dtype: f32, f16, bf16 or i8 (with a scale for each head and position), what the KV cache stores; None = f16
            for cpu, f32 for numpy.
        dtype: f32, f16 or bf16, what matrices are stored in; None keeps the checkpoint's. Arithmetic is f32.
        quantize: ``int8`` rounds matrices to int8 groups of 64, ``int8-dynamic`` activations too, as they are
            multiplied; a ``Quantization`` says more. ``dtype`` is then that of the matrices that are kept.
        overrides: norm eps, RoPE and the like where the checkpoint does not say (``frontends.overrides``).
        target: ``cpu`` (native code), ``numpy`` or ``cuda``; None = cpu where there is a C++ compiler. A plan runs
            on any of them.
        archs: for cuda, architectures that the plan is to carry machine code for: ``sm_90``, ``sm_86`` … It is run only
            where ``load`` is told to trust it.
        measure: find the error of every tensor that ``quantize`` rounds, for ``Plan.report["quality"]``.
        calibrate: a UTF-8 text on which the rounded model is compared with the one that is not (KL divergence, top-1
            agreement, perplexity of both); ``measure`` goes with it. Both models are written to a folder beside the
            plan while it lasts.
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
    options = replace(chosen_options(context, slots, kv_dtype, dtype, quantize, overrides, target), archs=tuple(archs))
    source, vocabulary = source_of(path), Path(tokenizer) if tokenizer is not None else None
    place = Path(out) if out is not None else None
    dump = Path(dump_ir) if dump_ir is not None else None
    text = Path(calibrate) if calibrate is not None else None
    if options.quantize is None and (measure or text is not None):
        raise GraphLLMError("measure, calibrate: expected quantize with them; there is nothing else to measure")
    found = _compile(source, vocabulary, options, place, dump, progress, measure or text is not None, text)
    return Plan(PlanFile.open(found, verify="none"))


def load(
    path: PathLike,
    *,
    tokenizer: PathLike | None = None,
    context: int = 0,
    slots: int = 0,
    kv_dtype: DType | None = None,
    dtype: DType | None = None,
    quantize: Quantization | Mode | None = None,
    overrides: Overrides | None = None,
    device: str | None = None,
    threads: int = 0,
    expand: Expand = "auto",
    verify: Verify = "auto",
    trust_code: bool = False,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> Model:
    """A model ready to run, from a plan or straight from a checkpoint (compiled once, then found in the cache).

    Args:
        path: a plan, or whatever ``compile`` takes.
        tokenizer: as for ``compile``; for a plan, to be used instead of its own.
        context, slots: as for ``compile``; 0 keeps a plan's own. Another value lowers the plan again, in memory, and so
            does a plan that was made for another device or by another version of graphllm.
        kv_dtype: as for ``compile``; None keeps a plan's own.
        dtype, quantize, overrides: as for ``compile``, and only for a checkpoint: a plan's weights are what they are.
        device: ``cpu``, ``numpy``, ``cuda`` (``cuda:1`` for another GPU than the first) or ``cuda-sim``, a GPU played
            by the CPU; None = cpu where native code can be had, and it is built once and kept.
        threads: how many compute on cpu; 0 = one for each physical core. No result depends on it.
        expand: on numpy, whether 16-bit weights are expanded to f32 once (``always``, int8 groups too), converted as
            they are read (``never``), or expanded where memory allows (``auto``).
        verify: hash all weights first (``all``), only those of plans under 64 MiB (``auto``), or ``none``.
        trust_code: run machine code that the plan carries, on cuda, rather than compile what it was compiled from.
        progress: called with (what, done, total), when something must be compiled.
        say: is told in one line what was done without being asked for.

    Raises:
        CheckpointError, TokenizerError: as for ``compile``.
        PlanError: the plan is damaged, too new, or describes something that is not a model.
        NativeError: ``cpu`` was asked for and there is no C++ compiler, ``cuda`` and there is no NVRTC, or it fails.
        DeviceError: no driver, no GPU, one that kernels are not made for, or too little memory on it.
        RunError: the caches do not fit in memory, or an option is for checkpoints only.
        GraphLLMError: the base of these; by itself, an option out of range or a cache folder that cannot be used.
    """
    from graphllm.compiler.targets import resolve_device, target_of

    for name, allowed, given in (("expand", get_args(Expand), expand), ("verify", get_args(Verify), verify)):
        if given not in allowed:
            raise RunError(f"{name}: {given!r}; expected {', '.join(allowed)}")
    source, (chosen, number, why) = source_of(path), resolve_device(device)
    checkpoint = not is_plan(source)
    if checkpoint:
        options = chosen_options(context, slots or 1, kv_dtype, dtype, quantize, overrides, target_of(chosen))
        source, tokenizer, verify = cached_plan(source, tokenizer, options, verify, progress), None, "none"
        context, slots, kv_dtype = 0, 0, None  # the plan has them
    elif dtype is not None or quantize is not None or (overrides is not None and overrides.given()):
        raise RunError(f"{source}: a plan; dtype, quantize and overrides are for checkpoints, compile that with them")
    file = PlanFile.open(source, verify=verify)
    link = Link(file, context, slots, kv_dtype, expand, threads, tokenizer, say, number, trust_code)
    try:
        model = link.model(chosen)
        if why:
            say(why)
    except NativeError as error:
        if not why:
            raise
        say(f"target numpy, several times as slow: {error}")
        model = link.model("numpy")
    if storage := model.engine.device.storage:
        say(storage)
    model.engine.device.prepare("decode")  # expands weights now, not while somebody waits for a token
    return model


@dataclass(frozen=True, slots=True)
class Link:
    """A plan and what was asked of it, to be put on a device."""

    file: PlanFile
    context: int
    slots: int
    kv_dtype: DType | None
    expand: Expand
    threads: int
    tokenizer: PathLike | None
    say: Say
    number: int
    trust_code: bool

    def model(self, name: DeviceName) -> Model:
        """The plan as it was lowered where that will do, or else lowered again, here and now."""
        from graphllm.compiler.targets import target_of

        target = target_of(name)
        plan, wanted = Plan(self.file), Wanted(self.file, self.context, self.slots, self.kv_dtype, self.say)
        if (module := wanted.own(target)) is not None:
            try:
                device = self.device(module, name, wanted.text(target))
                return Model(plan, module, device, self.tokenizer)
            except LoweredForOther:
                pass
        module = wanted.again(target)
        return Model(plan, module, self.device(module, name), self.tokenizer)

    def device(self, module: Module, name: DeviceName, lowered: str = "") -> Device:
        """``lowered`` is the text that the module was parsed from, '' where it was lowered just now."""
        if name == "numpy":
            from graphllm.compiler.link_numpy import link_numpy

            return link_numpy(self.file, module, self.expand)
        if name == "cuda":
            from graphllm.compiler.link_cuda import link_cuda

            return link_cuda(self.file, module, number=self.number, trust_code=self.trust_code, say=self.say)
        if name == "cuda-sim":
            from graphllm.compiler.link_cuda import link_simulated

            return link_simulated(self.file, module, say=self.say)
        from graphllm.compiler.link_cpu import link_cpu

        return link_cpu(self.file, module, self.threads, self.say, lowered=lowered)


def cached_plan(
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
    measure: bool = False,
    text: Path | None = None,
) -> Path:
    """Write the plan of a checkpoint to ``out``, or else to the cache, and say where it is."""
    from graphllm.compiler.cache import cached_path
    from graphllm.compiler.compile import compile_checkpoint, refuse_sources, tokenizer_for, weight_reader, write

    target = out if out is not None else cached_path(source, tokenizer, options)
    compiled = compile_checkpoint(source, options, dump)
    data = tokenizer_for(source, tokenizer, compiled.checkpoint)
    refuse_sources(target, source, tokenizer, compiled)
    quality = None
    if measure:
        from graphllm.compiler.quality import as_json, tensor_errors

        cost = _text_cost(source, tokenizer, options, target.absolute().parent, text, progress) if text else None
        quality = as_json(list(tensor_errors(compiled.lowered, weight_reader(compiled))), cost)
    try:
        write(target, compiled, data, options, progress, quality)
    except PlanError as error:
        if out is not None:
            raise
        raise PlanError(
            f"{error}; this is the cache: set GRAPHLLM_CACHE to another folder, or compile to a file"
        ) from None
    return target


def _text_cost(
    source: Path,
    tokenizer: Path | None,
    options: Options,
    folder: Path,
    text: Path,
    progress: Progress | None,
) -> TextCost:
    """How far rounding moves a model's predictions on a text: both models are made, run on it, and removed."""
    from graphllm.compiler.quality import read_text, text_cost

    words = read_text(text)
    try:
        made = TemporaryDirectory(prefix=".graphllm-", dir=folder)
    except OSError as error:
        raise PlanError(f"{folder}: cannot be written; {error.strerror}") from None
    with made as name:
        pair: list[Model] = []
        for how in (None, options.quantize):
            plan = Path(name) / f"{len(pair)}.gllm"
            _compile(source, tokenizer, replace(options, quantize=how, archs=()), plan, None, progress)
            pair.append(load(plan, device=options.target, verify="none"))
        exact, rounded = pair
        if exact.tokenizer is None:
            raise GraphLLMError(f"calibrate: {source.name} has no tokenizer; expected one, or tokenizer=FILE")
        return text_cost(exact.engine, rounded.engine, exact.encode(words))


def chosen_options(
    context: int,
    slots: int,
    kv_dtype: DType | None,
    dtype: DType | None,
    quantize: Quantization | Mode | None,
    overrides: Overrides | None,
    target: TargetName | None,
) -> Options:
    from graphllm.compiler.backends import BACKENDS
    from graphllm.compiler.options import Options
    from graphllm.compiler.targets import resolve
    from graphllm.frontends.overrides import NO_OVERRIDES
    from graphllm.passes.quantize_int8 import Quantization

    chosen, _ = resolve(target)
    how = Quantization(quantize) if isinstance(quantize, str) else quantize
    cache = kv_dtype or BACKENDS[chosen].kv_dtype
    return Options(context, slots, cache, dtype, how, overrides or NO_OVERRIDES, chosen)


__all__ = ["Answer", "Completion", "GraphLLMError", "Model", "Plan", "Stage", "compile", "load", "source_of"]
