"""The compiler: a checkpoint becomes a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from graphllm._version import __version__
from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.options import Options
from graphllm.compiler.weights import Array, WeightReader
from graphllm.errors import CheckpointError, PlanError, TokenizerError
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.tokenizer_file import NAMES, find_tokenizer
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module, Weight
from graphllm.ir.printer import print_module
from graphllm.ir.types import TensorType
from graphllm.passes.manager import Pass, Report, dump_module, run_passes
from graphllm.passes.pipeline import lowering, portable
from graphllm.plan.container import TensorSpec
from graphllm.plan.place import shown
from graphllm.plan.plan_file import Late, write_plan
from graphllm.plan.provenance import hash_file
from graphllm.plan.tokenizer_data import TokenizerData

Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A checkpoint compiled as far as weights not read: the modules of every stage and what each pass did."""

    checkpoint: Checkpoint
    steps: Steps
    traced: Module
    optimised: Module
    lowered: Module
    reports: tuple[Report, ...]
    seen: tuple[tuple[int, ...], ...]  # what the checkpoint's files looked like from outside


def compile_checkpoint(path: Path, options: Options, dump: Path | None = None) -> Compiled:
    """Everything but the weights. Raises CheckpointError, PassError."""
    checkpoint = open_checkpoint(path, options.overrides)
    seen = _looks(checkpoint.files)
    steps = options.steps(checkpoint.config.context)
    traced = trace(checkpoint.config, weights_of(checkpoint), checkpoint.group, steps)
    target = BACKENDS[options.target].target
    optimised, lowered, reports = lower(traced, portable(options.dtype, options.quantize), lowering(target), dump)
    return Compiled(checkpoint, steps, traced, optimised, lowered, reports, seen)


def lower(
    traced: Module, portable: Sequence[Pass], lowering: Sequence[Pass], dump: Path | None = None
) -> tuple[Module, Module, tuple[Report, ...]]:
    """(portable module, lowered module, what each pass did)."""
    if dump is not None:
        dump_module(traced, dump, 0, "traced")
    optimised, first = run_passes(traced, portable, dump, 1)
    lowered, second = run_passes(optimised, lowering, dump, 1 + len(portable))
    return optimised, lowered, (*first, *second)


def weights_of(checkpoint: Checkpoint) -> dict[str, Weight]:
    """The checkpoint's tensors as weights of the IR, not read."""
    return {name: Weight(name, TensorType(t.dtype, t.shape), None, t.source) for name, t in checkpoint.tensors.items()}


def tokenizer_for(path: Path, explicit: Path | None, checkpoint: Checkpoint) -> TokenizerData | None:
    """The checkpoint's tokenizer, checked to load and to fit the model. Raises TokenizerError.

    The one named explicitly wins, then the one inside the checkpoint, then one beside it.
    """
    from graphllm.compiler.tokenizer_index import kept_index
    from graphllm.runtime.tokenizer import load_tokenizer

    data = checkpoint.tokenizer if explicit is None else None
    data = data or find_tokenizer(path, explicit)
    if data is not None:
        try:
            load_tokenizer(data, checkpoint.config.vocab)
            kept_index(data)  # now, when nobody waits for a first token
        except TokenizerError as error:
            raise TokenizerError(f"tokenizer of {path.name}: {error}") from None
    return data


def refuse_sources(out: Path, source: Path, tokenizer: Path | None, compiled: Compiled) -> None:
    """Raise PlanError where the plan would take the place of what it is made from."""
    folder = source if source.is_dir() else source.parent
    for file in (*compiled.checkpoint.files, tokenizer, *(folder / name for name in NAMES)):
        with suppress(OSError, ValueError):  # there is no such file; whether it can be written, writing will tell
            if file is not None and out.samefile(file):
                raise PlanError(f"{shown(out)}: it belongs to the checkpoint; expected another name for the plan")


def weight_reader(compiled: Compiled) -> WeightReader:
    """Evaluates the weights of a compilation, read from the checkpoint."""
    checkpoint = compiled.checkpoint
    return WeightReader(lambda w: checkpoint.tensors[w.name].read(), checkpoint.release)


def write(
    out: Path,
    compiled: Compiled,
    tokenizer: TokenizerData | None,
    options: Options,
    progress: Progress | None = None,
    quality: Mapping[str, Any] | None = None,
) -> None:
    """Write the plan, one tensor at a time, under its final name only when it is complete.

    Args:
        quality: what rounding to int8 cost, for the plan's report (``compiler.quality``).

    Raises:
        PlanError: it cannot be written.
        NativeError: machine code was asked for, and NVRTC is not there or fails.
        CheckpointError: the checkpoint's files are not what they were when it was opened.
    """
    checkpoint, lowered = compiled.checkpoint, compiled.lowered
    code = _machine_code(lowered, options.archs) if options.archs else {}
    stored = lowered.stored_weights()
    evaluate = weight_reader(compiled)

    def read(name: str) -> Array:
        # Asked each time: to read on in a mapped file that has become shorter would end the process.
        for file, before, now in zip(checkpoint.files, compiled.seen, _looks(checkpoint.files), strict=True):
            if now != before:
                raise CheckpointError(f"{file}: changed while it was compiled; compile it again when it is complete")
        return evaluate(lowered.weights[name])

    def provenance(hashes: Sequence[str]) -> dict[str, Any]:
        """Names only: a plan tells nothing of where it was made."""
        files = zip(checkpoint.files, compiled.seen, hashes, strict=True)
        return {
            "format": checkpoint.format,
            "files": [{"name": f.name, "bytes": seen[2], "sha256": digest} for f, seen, digest in files],
            "notes": list(checkpoint.notes),
            "graphllm": __version__,
            "numpy": np.__version__,
        }

    stop = Event()
    with ThreadPoolExecutor(1) as pool:  # hashes what is read, beside the writing
        hashing = [pool.submit(hash_file, file, stop) for file in checkpoint.files]
        try:
            write_plan(
                out,
                texts={
                    "ir": print_module(compiled.optimised),
                    f"lowered/{options.target}": print_module(lowered),
                    f"source/{options.target}": BACKENDS[options.target].source(lowered),
                },
                documents={
                    "config": asdict(checkpoint.config),
                    **_given("sampling", dict(checkpoint.sampling) or None),
                    "options": {**options.as_json(), "steps": asdict(compiled.steps), "group": checkpoint.group},
                    "provenance": Late(
                        provenance(["0" * 64] * len(hashing)), lambda: provenance([h.result() for h in hashing])
                    ),
                    "report": {"passes": [r.as_json() for r in compiled.reports], **_given("quality", quality)},
                },
                tokenizer=tokenizer,
                weights=[TensorSpec(w.name, w.type.dtype, w.type.shape) for w in stored],
                read_weight=read,
                code=code,
                progress=(lambda done, total: progress("writing", done, total)) if progress else None,
            )
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _machine_code(lowered: Module, archs: Sequence[str]) -> dict[str, bytes]:
    """What the plan carries of the kernels, compiled unless they were."""
    from graphllm.codegen.cuda.generate import generate
    from graphllm.compiler.nvrtc.build import built
    from graphllm.compiler.nvrtc.carried import to_carry

    kernels = generate(lowered).kernels
    return to_carry(built(kernels.values(), archs), kernels)


def _given(name: str, value: object) -> dict[str, Any]:
    return {name: value} if value is not None else {}


def _looks(files: tuple[Path, ...]) -> tuple[tuple[int, ...], ...]:
    """Identity, size and time of change of each file; all -1 for one that is gone."""
    out: list[tuple[int, ...]] = []
    for file in files:
        try:
            s = file.stat()
            out.append((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns))
        except OSError:
            out.append((-1, -1, -1, -1))
    return tuple(out)
