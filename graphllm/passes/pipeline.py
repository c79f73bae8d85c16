"""The pipelines, in order. Each line is a pass; where order matters, the line says why."""

from __future__ import annotations

from functools import partial

from graphllm.ir.target import Target
from graphllm.ir.types import DType
from graphllm.passes.cast import cast
from graphllm.passes.cse import cse
from graphllm.passes.dce import dce
from graphllm.passes.fold import fold
from graphllm.passes.fuse import fuse
from graphllm.passes.interleave_rope import interleave_rope
from graphllm.passes.manager import Pass
from graphllm.passes.merge_linears import merge_linears
from graphllm.passes.narrow_rows import narrow_rows
from graphllm.passes.plan_memory import plan_memory
from graphllm.passes.quantize_int8 import Quantization, quantize_int8
from graphllm.passes.quantize_rows import quantize_rows
from graphllm.passes.schedule import schedule
from graphllm.passes.sink_conversions import sink_conversions


def portable(dtype: DType | None = None, quantization: Quantization | None = None) -> tuple[Pass, ...]:
    """What is done for every target.

    Args:
        dtype: what matrices are stored in, None to keep the checkpoint's.
        quantization: how they are rounded to int8, if at all; ``dtype`` is then that of those that are kept.
    """
    dynamic = quantization is not None and quantization.mode == "int8-dynamic"
    return (
        Pass("interleave-rope", interleave_rope),  # first: its patterns want each projection by itself
        Pass("merge-linears", merge_linears),
        Pass("sink-conversions", sink_conversions),  # after the two that move rows, before they are folded
        Pass("fold", fold),
        # what fold has stacked is rounded once, from what the checkpoint holds
        *((Pass("quantize-int8", partial(quantize_int8, how=quantization)),) if quantization is not None else ()),
        *((Pass("quantize-rows", quantize_rows),) if dynamic else ()),
        *((Pass("cast", partial(cast, dtype=dtype)),) if dtype is not None else ()),
        Pass("cse", cse),
        Pass("dce", dce),  # last: the passes above leave unread weights and operations behind
    )


def lowering(target: Target, *, keep: bool = False) -> tuple[Pass, ...]:
    """What turns the portable module into one target's kernels, order and memory.

    ``keep`` plans memory so that everything kernels hand out is still there after a step, for tools that look inside.
    """
    narrow = Pass("narrow-rows", partial(narrow_rows, few=target.narrow_rows))
    return (
        *((narrow,) if target.narrow_rows else ()),
        Pass("fuse", partial(fuse, target=target)),
        Pass("schedule", schedule),  # kernels move whole, so after fuse
        Pass("plan-memory", partial(plan_memory, target=target, keep=keep)),  # lifetimes follow from the order
    )


def by_name(target: Target, dtype: DType | None = None, quantization: Quantization | None = None) -> dict[str, Pass]:
    """Every pass under the name people call it by; ``cast`` and those of int8 only where they are asked for."""
    return {p.name: p for p in (*portable(dtype, quantization), *lowering(target))}
