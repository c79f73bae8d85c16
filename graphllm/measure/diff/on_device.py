"""Values as a device computes them, by the code it always runs.

The module is lowered as ever, but its memory is planned so that nothing is overwritten: after a step everything that
kernels handed out is still in the arena. ``apart`` puts every operation into a kernel of its own, so that what fused
kernels keep in registers can be seen too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.core import Function, Module, Value, Weight
from graphllm.ir.interpreter import apply
from graphllm.ir.opdef import lookup
from graphllm.ir.target import Target, Template
from graphllm.measure.diff.points import point_of
from graphllm.measure.diff.trace import Kind, Source, Trace, calls, noise_of
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.device import Device

Array = NDArray[Any]


def kept(optimised: Module, target: Target, kind: Kind, *, apart: bool = False) -> Module:
    """The portable module lowered for a target with everything kept, its functions those of a kind and those that
    every model must have."""
    wanted = {n: f for n, f in optimised.functions.items() if n == "decode" or n.split("_")[0] in (kind, "score")}
    few = replace(optimised, functions=wanted)
    lowered, _ = run_passes(few, lowering(one_by_one(target) if apart else target, keep=True))
    return lowered


def one_by_one(target: Target) -> Target:
    """The target with templates that hold no more than they must: conversions of weights, and a gather."""

    def least(template: Template) -> Template:
        held = template.before & {"cast", "dequantize", "embed"}
        return replace(template, before=held, after=frozenset[str]())

    return replace(target, templates=tuple(map(least, target.templates)))


def on_device(
    name: str, module: Module, device: Device, read: Callable[[Weight], Array], ids: Sequence[int], kind: Kind
) -> Trace:
    """Run a module that was lowered by ``kept`` and look into the arena after every step."""
    trace: Trace | None = None
    for call in calls(module, kind, ids):
        trace = trace or Trace(name, noise_of(module), Source(module, call.function, read))
        if call.function.name == "decode":
            logits = device.row(call.tokens[0], call.start, 0)
        else:
            logits = device.block(call.function.name, call.tokens, call.start, 0)
        logits = np.array(logits, np.float32).reshape(-1, logits.shape[-1])
        values = dict(_values(call.function, device.arena))
        made = {v.name: v for op in call.function.walk() for v in op.results}
        seen: dict[str, Array] = {}
        for value_name, array in values.items():
            point = point_of(value_name)
            rows = call.live_rows(made[value_name], array) if point is not None else None
            if point is not None and rows is not None:
                seen[point] = rows
        result = call.function.results[0]
        shown = call.live_rows(result, logits.reshape(result.type.shape))
        if shown is not None and (point := point_of(result.name)) is not None:
            seen[point] = shown
        for point, rows in seen.items():
            trace.add(point, rows)
    assert trace is not None
    return trace


def _values(function: Function, arena: NDArray[np.uint8]) -> Iterator[tuple[str, Array]]:
    """Everything that lies in the arena after a step, by name, and windows on it."""
    known: dict[int, Array] = {}
    for op in function.walk():
        entry = lookup(op.name)
        if entry.views is not None:
            source = known.get(id(op.operands[entry.views]))
            if source is not None:
                known.update({id(v): a for v, a in zip(op.results, apply(op, [source]), strict=True)})
        else:
            known.update({id(v): _read(v, arena) for v in op.results if v.arena is not None})
        yield from ((v.name, known[id(v)]) for v in op.results if id(v) in known)


def _read(value: Value, arena: NDArray[np.uint8]) -> Array:
    assert value.arena is not None
    part = np.array(arena[value.arena : value.arena + value.type.bytes])  # the next step will overwrite it
    return part.view(value.type.numpy).reshape(value.type.shape)
