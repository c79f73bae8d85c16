"""Whether a plan, or a checkpoint that is not compiled yet, fits in some memory. No weight is read.

fit = check(Path("plan.gllm"), Ask(target="cpu"), room=8 << 30)
fit.fits, fit.footprint.total, fit.largest_context, fit.largest_slots
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphllm.api.plan import Plan
from graphllm.api.source import source_of
from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.compile import compile_checkpoint
from graphllm.compiler.link import module_of
from graphllm.compiler.options import Options
from graphllm.compiler.record import config_of, steps_of
from graphllm.compiler.relower import lowered_for, relowered
from graphllm.compiler.targets import TargetName
from graphllm.errors import GraphLLMError
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.trace import Steps
from graphllm.ir.core import Module
from graphllm.ir.types import DType
from graphllm.measure.fit.footprint import Footprint, Setting, footprint
from graphllm.measure.fit.largest import largest_that_fits
from graphllm.plan.plan_file import PlanFile, is_plan
from graphllm.runtime.interface import MAX_SLOTS

Lowered = Callable[[int, int], Module]  # context, slots -> the module as the device would run it


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked about.

    Attributes:
        target: the device's; ``setting``: its threads and the like.
        context, slots, kv_dtype: as for ``compile``; 0 and None keep a plan's own.
        options: what else a checkpoint is to be compiled with; a plan takes none.
    """

    target: TargetName
    setting: Setting = field(default_factory=Setting)
    context: int = 0
    slots: int = 0
    kv_dtype: DType | None = None
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class Fit:
    """The answer.

    Attributes:
        room: bytes there are; ``footprint``: bytes it takes with ``context`` positions and ``slots`` sequences.
        position: bytes of the KV cache that one position of one sequence takes.
        largest_context: positions that fit with these slots, 0 for none; at most ``context_limit``, what the model
            claims, or what was asked for.
        largest_slots: sequences that fit with this context, 0 for none; at most the most there can be.
    """

    target: str
    context: int
    slots: int
    kv_dtype: str
    room: int
    footprint: Footprint
    position: int
    largest_context: int
    context_limit: int
    largest_slots: int

    @property
    def fits(self) -> bool:
        return self.footprint.total <= self.room

    def as_json(self) -> dict[str, Any]:
        total = self.footprint.total
        return {**asdict(self), "footprint": {**asdict(self.footprint), "total": total}, "fits": self.fits}


def check(model: Path, ask: Ask, room: int) -> Fit:
    """Whether the model fits in ``room`` bytes, and how large a context and a batch would.

    Raises:
        PlanError, CheckpointError: as for ``load``.
        NativeError: the target cpu, and no compiler to ask.
        GraphLLMError: the base of these; by itself, an option out of range.
    """
    lowered, steps, config = _subject(source_of(model), ask)
    setting = replace(ask.setting, room=room)

    @lru_cache(maxsize=256)
    def taken(context: int, slots: int) -> Footprint:
        return footprint(lowered(context, slots), ask.target, setting)

    own = taken(steps.context, steps.slots)
    position = own.states // (steps.context * steps.slots)
    limit = max(config.context, steps.context)
    return Fit(
        target=ask.target,
        context=steps.context,
        slots=steps.slots,
        kv_dtype=steps.kv_dtype,
        room=room,
        footprint=own,
        position=position,
        largest_context=largest_that_fits(lambda n: taken(n, steps.slots).total, position * steps.slots, room, limit),
        context_limit=limit,
        largest_slots=largest_that_fits(
            lambda n: taken(steps.context, n).total, position * steps.context, room, MAX_SLOTS
        ),
    )


def _subject(model: Path, ask: Ask) -> tuple[Lowered, Steps, ModelConfig]:
    return _plan(PlanFile.open(model, verify="none"), ask) if is_plan(model) else _checkpoint(model, ask)


def _plan(file: PlanFile, ask: Ask) -> tuple[Lowered, Steps, ModelConfig]:
    if replace(ask.options, target="numpy", kv_dtype="f32") != Options():
        raise GraphLLMError(f"{file.path}: a plan; precision, tokenizer and overrides are for checkpoints")
    steps = steps_of(file, ask.context, ask.slots, ask.kv_dtype)
    own = steps_of(file)

    def lowered(context: int, slots: int) -> Module:
        wanted = replace(steps, context=context, slots=slots)
        if wanted != own:
            return relowered(file, wanted, ask.target)
        if Plan(file).target == ask.target and f"lowered/{ask.target}" in file.sections:
            return module_of(file, f"lowered/{ask.target}")
        return lowered_for(file, ask.target)

    return lowered, steps, config_of(file)


def _checkpoint(model: Path, ask: Ask) -> tuple[Lowered, Steps, ModelConfig]:
    kv_dtype = ask.kv_dtype or BACKENDS[ask.target].kv_dtype
    options = replace(ask.options, target=ask.target, kv_dtype=kv_dtype, context=ask.context, slots=ask.slots or 1)
    first = compile_checkpoint(model, options)
    config = first.checkpoint.config

    def lowered(context: int, slots: int) -> Module:
        if (context, slots) == (first.steps.context, first.steps.slots):
            return first.lowered
        return compile_checkpoint(model, replace(options, context=context, slots=slots)).lowered

    return lowered, first.steps, config
