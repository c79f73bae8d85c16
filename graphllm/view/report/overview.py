"""Sizes of a plan and of each step it runs, and the time a step needs at least by what a machine can do."""

from __future__ import annotations

from collections import Counter
from typing import Any

from graphllm.ir.core import Function, Module
from graphllm.ir.cost import cached_bytes_per_position, step_bytes, step_flops
from graphllm.view.fold import distinct_kernels
from graphllm.view.report.subject import Rates, Subject

Json = dict[str, Any]


def overview_json(subject: Subject) -> Json:
    """Bytes by class and dtype, and the steps."""
    module = subject.lowered
    by_dtype: Counter[str] = Counter()
    for w in module.stored_weights():
        by_dtype[w.type.dtype] += w.type.bytes
    state = next(iter(module.states.values()), None)
    slots, context = (state.type.shape[0], state.type.shape[2]) if state is not None else (0, 0)
    return {
        "parameters": _parameters(subject),
        "weights": {"count": len(module.stored_weights()), "bytes": sum(by_dtype.values()), "by_dtype": dict(by_dtype)},
        "cache": {
            "bytes": sum(s.type.bytes for s in module.states.values()),
            "slots": slots,
            "context": context,
            "bytes_per_position": next((cached_bytes_per_position(f) for f in module.functions.values()), 0),
            "dtypes": sorted({s.type.dtype for s in module.states.values()}),
        },
        "arena": max((f.arena or 0 for f in module.functions.values()), default=0),
        "rates": {
            "bytes_per_second": subject.rates.bytes_per_second,
            "flops_per_second": subject.rates.flops_per_second,
            "how": subject.rates.how,
        },
        "steps": [_step(module, f, subject.rates) for f in module.functions.values()],
    }


def _parameters(subject: Subject) -> int:
    """Elements of the checkpoint's tensors that the traced module reads."""
    return sum(w.type.numel for w in subject.snapshots[0].module.stored_weights())


def _step(module: Module, function: Function, rates: Rates) -> Json:
    rows = max((v.type.shape[0] for v in function.inputs if v.type.shape), default=1)
    empty, flops = step_bytes(function), step_flops(function)
    full = empty + cache_read(function, rows)
    out: Json = {
        "function": function.name,
        "rows": rows,
        "order": function.rows,
        "operations": sum(1 for _ in function.walk()),
        "kernels": len(function.ops),
        "distinct": distinct_kernels(module, function.name),
        "bytes_empty": empty,
        "bytes_full": full,
        "flops_full": flops,
        "arena": function.arena or 0,
    }
    least = [floor_seconds(b, flops, rates) for b in (empty, full)]
    if all(least):
        out |= {"seconds_empty": least[0], "seconds_full": least[1]}
    return out


def floor_seconds(moved: int, flops: int, rates: Rates) -> float:
    """The least time by a roofline: of moving and computing whichever takes longer; 0 where no rate is known."""
    moving = moved / rates.bytes_per_second if rates.bytes_per_second else 0.0
    computing = flops / rates.flops_per_second if rates.flops_per_second else 0.0
    return float(f"{max(moving, computing):.6g}")


def cache_read(function: Function, rows: int) -> int:
    """Bytes that attention reads of full caches: every row's slot, one slot for consecutive rows; windows ignored."""
    state = next((s for s, _ in function.updates), None)
    if state is None:
        return 0
    slots = rows if function.rows == "independent" else 1
    return cached_bytes_per_position(function) * state.type.shape[2] * min(slots, state.type.shape[0])
