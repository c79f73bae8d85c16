"""What a plan says of itself in words other than IR: its model's config and the step sizes it was traced for.

A plan is lowered again from this record, so every field is held against its declared type and range: the file may have
been written by anyone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from functools import cache
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from graphllm.compiler.options import check_quantization
from graphllm.compiler.quality import TensorError, TextCost
from graphllm.errors import GraphLLMError, PlanError
from graphllm.frontends.config import ModelConfig, RopeScaling
from graphllm.frontends.sizes import check_sizes
from graphllm.frontends.trace import KV_DTYPES, Steps
from graphllm.ir.types import DType
from graphllm.passes.quantize_int8 import Quantization
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.interface import MAX_CONTEXT, MAX_SLOTS

_MOST_STEPS = 16  # prefill functions; each is traced and lowered


def steps_of(
    plan: PlanFile, context: int | None = None, slots: int | None = None, kv_dtype: str | None = None
) -> Steps:
    """The step sizes the plan was traced for, with another context, number of slots or cache. Raises PlanError."""
    where = f"{plan.path}: its record of step sizes"
    steps = _read(Steps, _document(plan, "options").get("steps"), where)
    if len(steps.prefill) > _MOST_STEPS or not all(0 < t <= MAX_CONTEXT for t in (*steps.prefill, steps.score)):
        raise PlanError(f"{where}: prefill {steps.prefill[:4]}, score {steps.score}; expected a few, and positive ones")
    asked = {k: v for k, v in (("context", context), ("slots", slots), ("kv_dtype", kv_dtype)) if v}
    steps = replace(steps, **asked)
    whole = type(steps.context) is int and type(steps.slots) is int
    if not whole or not 0 < steps.context <= MAX_CONTEXT or not 0 < steps.slots <= MAX_SLOTS:
        raise PlanError(
            f"{plan.path}: context {steps.context!r}, slots {steps.slots!r}; expected 1 to {MAX_CONTEXT} positions and "
            f"1 to {MAX_SLOTS} slots"
        )
    if steps.kv_dtype not in KV_DTYPES:
        raise PlanError(f"{plan.path}: kv dtype {steps.kv_dtype!r}; expected {', '.join(KV_DTYPES)}")
    return steps


def config_of(plan: PlanFile) -> ModelConfig:
    """The model's config. Raises PlanError, or CheckpointError for sizes that no model has."""
    where = f"{plan.path}: its config"
    config = _read(ModelConfig, _document(plan, "config"), where)
    check_sizes(config, where)
    if config.windows and len(config.windows) != config.layers:
        raise PlanError(f"{where}: {len(config.windows)} windows; expected one for each of {config.layers} layers")
    return config


def group_of(plan: PlanFile) -> int:
    """The size of the checkpoint's int8 groups, 0 where it has none."""
    group = _document(plan, "options").get("group", 0)
    if type(group) is not int or not 0 <= group < 2**31:
        raise PlanError(f"{plan.path}: its record of options: group; expected a whole number, got {_shown(group)}")
    return group


def dtype_of(plan: PlanFile) -> DType | None:
    """The dtype its matrices were rounded to, None where they are the checkpoint's."""
    match _document(plan, "options").get("dtype"):
        case None | "f32" | "f16" | "bf16" as dtype:
            return dtype
        case other:
            where = f"{plan.path}: its record of options: dtype"
            raise PlanError(f"{where}; expected f32, f16, bf16 or null, got {_shown(other)}")


def quantization_of(plan: PlanFile) -> Quantization | None:
    """How its matrices were rounded to int8, None where they were not."""
    record = _document(plan, "options").get("quantize")
    if record is None:
        return None
    where = f"{plan.path}: its record of options: quantize"
    how: Quantization = _read(Quantization, record, where)
    try:
        check_quantization(how, where)
    except GraphLLMError as error:
        raise PlanError(str(error)) from None
    return how


def quality_of(plan: PlanFile) -> tuple[list[TensorError], TextCost | None] | None:
    """What rounding to int8 cost, None where it was not measured. Raises PlanError for a record that is none."""
    record = _document(plan, "report").get("quality")
    if record is None:
        return None
    where = f"{plan.path}: its report of quality"
    fields_of = cast("dict[str, object]", record) if isinstance(record, dict) else {}
    tensors, text = fields_of.get("tensors"), fields_of.get("text")
    if not isinstance(tensors, list):
        raise PlanError(f"{where}: expected an object with tensors, got {_shown(cast(object, record))}")
    errors: list[TensorError] = [_read(TensorError, e, f"{where}: tensors") for e in cast("list[object]", tensors)]
    return errors, (_read(TextCost, text, f"{where}: text") if text is not None else None)


def _document(plan: PlanFile, name: str) -> Mapping[str, Any]:
    document = plan.documents.get(name)
    if document is None:
        raise PlanError(f"{plan.path}: document {name}: not in this plan; compile the checkpoint again")
    return document


def _read(cls: type[Any], record: object, where: str) -> Any:
    """An instance of a frozen dataclass from JSON, every field of its declared type."""
    if not isinstance(record, dict):
        raise PlanError(f"{where}: expected an object, got {_shown(record)}")
    hints, values = _hints(cls), dict[str, Any]()
    for field in fields(cls):
        if field.name in record:
            values[field.name] = _typed(hints[field.name], record[field.name], f"{where}: {field.name}")
        elif field.default is MISSING:
            raise PlanError(f"{where}: lacks {field.name}")
    return cls(**values)


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    """Declared types of its fields; to work them out is to compile our own annotations, so it is done once."""
    return get_type_hints(cls)


def _typed(kind: Any, value: Any, where: str) -> Any:
    if kind is RopeScaling:
        return _read(RopeScaling, value, where)
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    if get_origin(kind) is Literal and isinstance(value, str) and value in get_args(kind):
        return value
    if kind == int | None and (value is None or type(value) is int):
        return value
    if get_origin(kind) is tuple and isinstance(value, list):
        items = cast("list[object]", value)
        if all(type(item) is get_args(kind)[0] for item in items):
            return tuple(items)
    raise PlanError(f"{where}: expected {getattr(kind, '__name__', kind)}, got {_shown(cast(object, value))}")


def _shown(value: object) -> str:
    return repr(value)[:40]
