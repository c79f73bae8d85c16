"""What can be seen of a plan, of a checkpoint before it is one, or of a file of text IR: its module at every stage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from graphllm.api.plan import Plan, Stage
from graphllm.compiler.options import Options
from graphllm.compiler.quality import TensorError, TextCost
from graphllm.compiler.targets import TargetName
from graphllm.errors import GraphLLMError
from graphllm.frontends.config import ModelConfig
from graphllm.ir.core import Module
from graphllm.ir.parser import parse_module
from graphllm.ir.verifier import verify
from graphllm.plan.plan_file import PlanFile, is_plan


@dataclass(frozen=True, slots=True)
class Inspection:
    """A module's stages (made when asked for), its model's config and the passes' reports as JSON, where known."""

    stage: Callable[[Stage], Module]
    config: Mapping[str, Any]
    passes: Sequence[Mapping[str, Any]]
    target: str  # what its lowered stage is for, '' where that is not known
    quality: tuple[list[TensorError], TextCost | None] | None = None  # what rounding to int8 cost, where measured

    def source(self, target: TargetName) -> str:
        """The code that the module gives for a target, lowered for it where it was lowered for another."""
        from graphllm.compiler.backends import BACKENDS

        return BACKENDS[target].source(self.lowered_for(target))

    def lowered_for(self, target: TargetName) -> Module:
        """The module as it was lowered for a target, or is now."""
        from graphllm.compiler.backends import BACKENDS
        from graphllm.passes.manager import run_passes
        from graphllm.passes.pipeline import lowering

        if target == self.target:
            return self.stage("lowered")
        module, _ = run_passes(self.stage("optimised"), lowering(BACKENDS[target].target))
        return module


def inspect(path: Path, options: Options) -> Inspection:
    """Look at a plan, a checkpoint (its weights are not read) or text IR; ``options`` are for a checkpoint.

    Raises:
        GraphLLMError: in one line, what is wrong with it.
    """
    if is_plan(path):
        refuse_options(path, "a plan", options)
        return _plan(Plan(PlanFile.open(path, verify="none")))
    if (text := _text_ir(path)) is not None:
        refuse_options(path, "text IR", options)
        module = parse_module(text, str(path))
        verify(module)
        planned = any(f.arena is not None for f in module.functions.values())
        return Inspection(lambda stage: module, {}, (), options.target if planned else "")
    from graphllm.compiler.compile import compile_checkpoint

    c = compile_checkpoint(path, options)
    stages = {"traced": c.traced, "optimised": c.optimised, "lowered": c.lowered}
    config = json.loads(json.dumps(asdict(c.checkpoint.config)))  # as a plan would say it
    return Inspection(stages.__getitem__, config, [r.as_json() for r in c.reports], options.target)


def refuse_options(path: Path, what: str, options: Options) -> None:
    """Raise GraphLLMError where options were given for what is compiled already."""
    if replace(options, target="numpy") != Options():
        raise GraphLLMError(
            f"{path}: {what}, shown as it is; context, slots, precision and overrides are for checkpoints"
        )


def _plan(plan: Plan) -> Inspection:
    recorded: Any = plan.report.get("passes")
    passes = cast("list[object]", recorded) if isinstance(recorded, list) else []
    config = {
        f.name: plan.config[f.name] for f in fields(ModelConfig) if f.name in plan.config
    }  # JSON forgot the order
    recorded_passes = [cast("dict[str, Any]", p) for p in passes if isinstance(p, dict)]
    return Inspection(plan.stage, config, recorded_passes, plan.target, plan.quality)


def _text_ir(path: Path) -> str | None:
    """The text of a file that begins like text IR, None for any other."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as f:
            if not re.match(rb"(?:\s|//[^\n]*\n)*(?:weight|state|func)\s+@", f.read(4096)):
                return None
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise GraphLLMError(f"{path}: cannot be read; {error}") from None
