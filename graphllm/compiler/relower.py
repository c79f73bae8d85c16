"""A plan lowered again: for another context or number of sequences than it was compiled for.

Only here does running a plan need the frontends and passes. The weights stay what they are: the same passes over the
same tensors give them the same names.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.compile import lower
from graphllm.compiler.link import check_weights, module_of
from graphllm.compiler.options import Options
from graphllm.errors import PlanError
from graphllm.frontends.config import ModelConfig, RopeScaling
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module
from graphllm.passes.pipeline import lowering, portable
from graphllm.plan.plan_file import PlanFile


def traced(plan: PlanFile, context: int | None = None, slots: int | None = None) -> Module:
    """The module as it was traced, from the plan's own record. Raises PlanError for a record that makes no sense."""
    steps = steps_of(plan, context, slots)
    portable_module = module_of(plan, "ir")
    tensors = {name: w for name, w in portable_module.weights.items() if w.definition is None}
    try:
        return trace(config_of(plan), tensors, int(plan.documents["options"].get("group", 0)), steps)
    except (KeyError, ValueError, TypeError) as error:
        raise PlanError(f"{plan.path}: its record does not describe its model; {error}") from None


def relowered(plan: PlanFile, context: int | None = None, slots: int | None = None) -> Module:
    """The lowered module for another context or number of slots."""
    try:
        dtype = plan.documents["options"].get("dtype")
        _, lowered, _ = lower(traced(plan, context, slots), portable(dtype), lowering(NUMPY))
    except KeyError as error:
        raise PlanError(f"{plan.path}: its record lacks {error}") from None
    check_weights(plan, lowered)
    return lowered


def steps_of(plan: PlanFile, context: int | None = None, slots: int | None = None) -> Steps:
    """The step sizes the plan was traced for, with another context or number of slots."""
    try:
        record: dict[str, Any] = dict(plan.documents["options"]["steps"])
        record["prefill"] = tuple(record["prefill"])
        steps = Steps(**record)
    except (KeyError, TypeError) as error:
        raise PlanError(f"{plan.path}: its record of step sizes cannot be read; {error}") from None
    steps = replace(steps, context=context or steps.context, slots=slots or steps.slots)
    Options(steps.context, steps.slots, steps.kv_dtype)  # refuses what cannot be
    return steps


def config_of(plan: PlanFile) -> ModelConfig:
    """The model's config from the plan's record."""
    try:
        record: dict[str, Any] = dict(plan.documents["config"])
        record["rope_scaling"] = RopeScaling(**record["rope_scaling"])
        for name in ("windows", "eos_ids"):
            record[name] = tuple(record[name])
        known = {f.name for f in fields(ModelConfig)}
        return ModelConfig(**{k: v for k, v in record.items() if k in known})
    except (KeyError, TypeError) as error:
        raise PlanError(f"{plan.path}: its config cannot be read; {error}") from None
