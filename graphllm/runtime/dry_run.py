"""Every function of a module run once on the null device: reads, writes and caches checked, nothing computed."""

from __future__ import annotations

from graphllm.ir.core import Module
from graphllm.runtime.engine import Engine
from graphllm.runtime.null_device import NullDevice


def dry_run(module: Module) -> None:
    """Raise PlanError, naming function, operation and value, where a step reads what was not written."""
    engine = Engine(NullDevice(module), module)
    sizes = {f.inputs[0].type.shape[0] for f in module.functions.values()}
    for n in sorted(sizes):
        rows = [0] * min(n, engine.context)
        engine.truncate(0)
        engine.feed(rows)  # the sizes of prefill are each the cheapest cover of themselves
        engine.truncate(0)
        for _ in engine.score(rows):
            pass
    for slot in range(engine.slots):
        engine.truncate(0, slot)
    for n in sorted({min(n, engine.slots) for n in sizes}):
        if engine.lengths[0] < engine.context:
            engine.step_many([(0, slot) for slot in range(n)])
