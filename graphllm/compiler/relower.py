"""A plan lowered again: for another target, context, number of sequences or cache than it was compiled for, or by
another version of graphllm.

Only here does running a plan need the passes, and mostly the frontends. The weights stay what they are: the same passes
over the same tensors give them the same names.
"""

from __future__ import annotations

from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.compile import lower
from graphllm.compiler.link import check_weights, module_of
from graphllm.compiler.record import config_of, dtype_of, group_of, quantization_of, steps_of
from graphllm.compiler.targets import TargetName
from graphllm.errors import GraphLLMError, PlanError
from graphllm.frontends.sizes import tensor_shapes
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering, portable
from graphllm.plan.plan_file import PlanFile


def traced(plan: PlanFile, steps: Steps | None = None) -> Module:
    """The module as it was traced, or as it would be for other step sizes, from the plan's own record.

    Raises:
        PlanError: the record is not of this plan's model.
        CheckpointError: the record has sizes that no model has.
    """
    config, steps = config_of(plan), steps or steps_of(plan)
    tensors = {name: w for name, w in module_of(plan, "ir").weights.items() if w.definition is None}
    missing = [name for name in tensor_shapes(config) if name not in tensors] if config.layers <= len(tensors) else [""]
    if missing:
        what = missing[0] or f"those of {config.layers} layers"
        raise PlanError(f"{plan.path}: its config; expected weights that its IR lacks: {what}")
    try:
        return trace(config, tensors, group_of(plan), steps)
    except GraphLLMError as error:
        raise PlanError(f"{plan.path}: its record does not describe its model; {str(error).splitlines()[0]}") from None


def relowered(plan: PlanFile, steps: Steps, target: TargetName) -> Module:
    """The lowered module for other step sizes, from the start. Raises like ``traced``."""
    passes = portable(dtype_of(plan), quantization_of(plan))
    _, lowered, _ = lower(traced(plan, steps), passes, lowering(BACKENDS[target].target))
    check_weights(plan, lowered)
    return lowered


def lowered_for(plan: PlanFile, target: TargetName) -> Module:
    """The plan's portable module, lowered for another target. Raises PlanError."""
    lowered, _ = run_passes(module_of(plan, "ir"), lowering(BACKENDS[target].target))
    return lowered
