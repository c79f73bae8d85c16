"""What a report shows of a plan or a checkpoint: every pass run again, one by one, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graphllm._version import __version__
from graphllm.api.model import PathLike
from graphllm.api.plan import Plan
from graphllm.api.source import source_of
from graphllm.errors import GraphLLMError, PlanError
from graphllm.plan.plan_file import PlanFile, is_plan

if TYPE_CHECKING:
    from graphllm.compiler.options import Options
    from graphllm.compiler.targets import TargetName
    from graphllm.ir.core import Module
    from graphllm.passes.manager import Pass
    from graphllm.view.profile_data import Profile
    from graphllm.view.report.subject import Rates, Snapshot, Source, Subject, TensorCost


@dataclass(frozen=True, slots=True)
class _Stage:
    """Passes that run for all targets, or for one."""

    name: Any  # of a Snapshot's stage
    passes: Sequence[Pass]


def report_subject(
    path: PathLike,
    options: Options | None = None,
    *,
    passes: Sequence[Pass] | None = None,
    rates: Rates | None = None,
    profile: Profile | None = None,
    arch: str = "",
) -> Subject:
    """What a report shows of a plan, or of a checkpoint compiled in memory; no weight is read.

    Args:
        path: a plan or a checkpoint; ``demo`` is our own.
        options: how a checkpoint is compiled.
        passes: portable passes instead of the pipeline's own, to see what one more, or one less, does.
        rates: what the machine can do, for the least time of a step.
        profile: times of a step, to be shown beside.
        arch: of the target cuda, compile the kernels for this GPU, by NVRTC, and show what they take of it.

    Raises:
        GraphLLMError: in one line, what is wrong with it.
    """
    source = source_of(path)
    if is_plan(source):
        with PlanFile.open(source, verify="none") as file:
            subject = _of_plan(file, passes)
    else:
        subject = _of_checkpoint(source, options, passes)
    from dataclasses import replace

    from graphllm.view.report.subject import Rates

    if arch and subject.target == "cuda":
        subject = replace(subject, source=_with_resources(subject.source, subject.lowered, arch))
    if profile is not None:
        if not _is_of(profile, subject):
            raise GraphLLMError(
                f"profile: of @{profile.function} on {profile.device}, which is not what this plan runs on "
                f"{subject.target}; profile this plan"
            )
        rates = rates or Rates(profile.read_rate, profile.flop_rate, "measured with the profile")
    return replace(subject, profile=profile, rates=rates or Rates())


def _is_of(profile: Profile, subject: Subject) -> bool:
    """Whether a profile's kernels are those of the plan: of its target, and of the same operations."""
    from graphllm.compiler.targets import DeviceName, target_of

    function = subject.lowered.functions.get(profile.function)
    if function is None or target_of(cast("DeviceName", profile.device)) != subject.target:
        return False
    for k in profile.kernels:
        if not 0 <= k.index < len(function.ops):
            return False
        op = function.ops[k.index]
        own = tuple(o.name for o in (op.body.ops if op.body is not None else (op,)))
        if k.ops[: len(own)] != own:
            return False
    return True


def report_html(subjects: Sequence[Subject]) -> str:
    """One self-contained page about one plan, or about two and their differences."""
    from graphllm.view.report.data import report_json
    from graphllm.view.report.page import report_page

    return report_page(report_json(subjects))


def _of_plan(file: PlanFile, passes: Sequence[Pass] | None) -> Subject:
    from graphllm.compiler.record import dtype_of, quantization_of
    from graphllm.compiler.relower import traced
    from graphllm.ir.printer import print_module
    from graphllm.passes.pipeline import portable

    plan = Plan(file)
    target = cast("TargetName", plan.target)
    lowered = plan.lowered
    notes: list[str] = []
    chosen = passes if passes is not None else portable(dtype_of(file), quantization_of(file))
    snapshots = _snapshots(traced(file), chosen, target)
    if print_module(snapshots[-1].module) != print_module(lowered):
        if passes is not None:
            notes.append("compiled with other passes than the plan: what is shown is what they make of it")
        else:
            made = plan.provenance.get("graphllm", "another version")
            notes.append(f"the plan was lowered by graphllm {made}; shown is what {__version__} makes of it")
    return _subject(
        name=Path(file.path).name,
        target=target,
        snapshots=snapshots,
        config=_in_order(plan.config),
        provenance=plan.provenance,
        options=file.documents.get("options", {}),
        quality=plan.quality,
        tokens=_tokens(file, lowered),
        notes=notes,
    )


def _of_checkpoint(path: Path, options: Options | None, passes: Sequence[Pass] | None) -> Subject:
    from graphllm.compiler.backends import BACKENDS
    from graphllm.compiler.compile import compile_checkpoint, tokenizer_for
    from graphllm.compiler.options import Options
    from graphllm.compiler.targets import resolve
    from graphllm.passes.pipeline import portable
    from graphllm.runtime.tokenizer import load_tokenizer

    if options is None:
        target, _ = resolve(None)
        options = Options(target=target, kv_dtype=BACKENDS[target].kv_dtype)
    compiled = compile_checkpoint(path, options)
    checkpoint = compiled.checkpoint
    tokenizer = tokenizer_for(path, None, checkpoint)
    chosen = passes if passes is not None else portable(options.dtype, options.quantize)
    return _subject(
        name=path.name,
        target=options.target,
        snapshots=_snapshots(compiled.traced, chosen, options.target),
        config=json.loads(json.dumps(asdict(checkpoint.config))),
        provenance={
            "format": checkpoint.format,
            "files": [{"name": f.name, "bytes": f.stat().st_size} for f in checkpoint.files],
            "notes": list(checkpoint.notes),
            "graphllm": __version__,
        },
        options=json.loads(json.dumps(options.as_json() | {"steps": asdict(compiled.steps)})),
        quality=None,
        tokens=load_tokenizer(tokenizer, checkpoint.config.vocab).vocab_size if tokenizer is not None else 0,
        notes=["a checkpoint, compiled in memory: no plan was written"],
    )


def _snapshots(traced: Module, portable: Sequence[Pass], target: TargetName) -> list[Snapshot]:
    """The module as it was traced and after every pass."""
    from graphllm.compiler.backends import BACKENDS
    from graphllm.passes.manager import run_passes
    from graphllm.passes.pipeline import lowering
    from graphllm.view.report.subject import Snapshot

    out = [Snapshot("traced", "traced", traced, {}, 0.0)]
    for stage in (_Stage("portable", portable), _Stage("lowering", lowering(BACKENDS[target].target))):
        for step in stage.passes:
            module, (report,) = run_passes(out[-1].module, [step])
            out.append(Snapshot(step.name, stage.name, module, report.as_json(), report.milliseconds))
    return out


def _subject(
    *,
    name: str,
    target: TargetName,
    snapshots: Sequence[Snapshot],
    quality: Any,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    options: Mapping[str, Any],
    tokens: int,
    notes: Sequence[str],
) -> Subject:
    from graphllm.passes.plan_memory import arena_bounds
    from graphllm.view.report.subject import Subject

    lowered = snapshots[-1].module
    errors, text_cost = quality if quality is not None else ((), None)
    return Subject(
        name=name,
        target=target,
        snapshots=snapshots,
        source=_source(lowered, target),
        config=config,
        provenance=provenance,
        options=options,
        costs=_costs(errors),
        text_cost=asdict(text_cost) if text_cost is not None else None,
        tokens=tokens,
        lower_bounds={f.name: arena_bounds(f)[1] for f in lowered.functions.values() if f.arena is not None},
        notes=notes,
    )


def _source(module: Module, target: TargetName) -> Source:
    from graphllm.compiler.backends import BACKENDS
    from graphllm.view.report.subject import Source

    backend = BACKENDS[target]
    source = Source(backend.language, backend.source(module), backend.kernels(module), backend.launches(module))
    return source if target != "cuda" else _with_moved(source, module)


def _with_moved(source: Source, module: Module) -> Source:
    from dataclasses import replace

    from graphllm.codegen.cuda.generate import generate
    from graphllm.compiler.launches.bytes_moved import operations_moved

    streams = generate(module).streams
    each = {name: operations_moved(stream, module.functions[name], 0) for name, stream in streams.items()}
    return replace(source, moved={name: [m and (m.moved, m.floor) for m in all_] for name, all_ in each.items()})


def _with_resources(source: Source, module: Module, arch: str) -> Source:
    from dataclasses import replace

    from graphllm.codegen.cuda.generate import generate
    from graphllm.compiler.launches.report import kernel_resources
    from graphllm.compiler.nvrtc.build import built

    program = generate(module)
    made = built(program.kernels.values(), [arch])
    taken = kernel_resources(program, {name: cubin.resources for (name, _), cubin in made.items()}, arch)
    return replace(source, resources=taken, arch=arch)


def _costs(errors: Sequence[Any]) -> dict[str, TensorCost]:
    from graphllm.view.report.subject import TensorCost

    return {e.name: TensorCost(e.relative, e.largest) for e in errors}


def _tokens(file: PlanFile, module: Module) -> int:
    """Ids that the plan's tokenizer has, 0 for none."""
    if file.tokenizer is None:
        return 0
    from graphllm.runtime.tokenizer import load_tokenizer

    decode = module.functions.get("decode")
    if decode is None:
        raise PlanError(f"{file.path}: functions; expected decode")
    return load_tokenizer(file.tokenizer, decode.results[0].type.shape[-1]).vocab_size


def _in_order(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as a config has them: JSON forgot the order."""
    from dataclasses import fields

    from graphllm.frontends.config import ModelConfig

    return {f.name: config[f.name] for f in fields(ModelConfig) if f.name in config}
