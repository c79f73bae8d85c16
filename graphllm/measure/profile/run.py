"""Where the time of a step goes: every kernel timed, over some steps, the median step told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from graphllm.api import Model
from graphllm.compiler.targets import BACKENDS, TargetName
from graphllm.errors import RunError
from graphllm.ir.core import Function, Operation
from graphllm.measure.diff.on_device import one_by_one
from graphllm.measure.profile.clocks import Clock, Marks, clock
from graphllm.measure.profile.cost import bytes_and_flops
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.engine import Engine
from graphllm.view.profile_data import KernelTime, Profile, Span
from graphllm.view.scope import layer_of


@dataclass(frozen=True, slots=True)
class What:
    """What is timed: a function behind ``position`` tokens, ``steps`` times; ``apart``: each operation by itself."""

    function: str = "decode"
    position: int = 0
    steps: int = 30
    apart: bool = False


def profile(
    model: Model,
    target: TargetName,
    what: What,
    *,
    threads: int = 0,
    read_rate: float = 0.0,
    flop_rate: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Time a step of a model kernel by kernel.

    Args:
        read_rate, flop_rate: of this machine, measured; 0 where they are not known.

    Raises:
        RunError: a target that tells no times, a function that the model has not, more positions than its context.
    """
    module = model.lowered
    if what.apart:
        module, _ = run_passes(model.plan.module, lowering(one_by_one(BACKENDS[target].target)))
    function = module.functions.get(what.function)
    if function is None or what.steps < 1:
        raise RunError(
            f"profile: {what.steps} steps of {what.function}; expected 1 or more of {', '.join(module.functions)}"
        )
    told = clock(model.plan.file, module, target, threads=threads, say=say)
    engine = Engine(told.device, module)
    rows = function.inputs[0].type.shape[0]
    if function.rows != "consecutive" and rows > 1:
        raise RunError(f"profile: {what.function} takes several sequences; expected decode, prefill_N or score_N")
    if what.position + rows > engine.context or what.position < 0:
        raise RunError(f"profile: position {what.position}; expected at most {engine.context - rows}")
    random = Random(0)
    ids = [random.randrange(engine.vocab) for _ in range(what.position + rows)]
    if what.position:
        engine.feed(ids[: what.position])
    steps = [_step(told, function, ids[what.position :], what.position) for _ in range(what.steps + 2)][2:]
    order = np.argsort([end - start for start, end, _ in steps])
    start, end, marks = steps[int(order[len(order) // 2])]
    kernels = tuple(_kernels(function, steps, start, marks, what.position + rows))
    spans = tuple(
        Span(k.index, thread, int(row[2 * k.index]) - start, int(row[2 * k.index + 1] - row[2 * k.index]))
        for k in kernels
        for thread, row in enumerate(marks)
    )
    return Profile(
        device=told.device.name,
        threads=told.threads,
        function=what.function,
        rows=rows,
        position=what.position,
        steps=what.steps,
        step_ns=end - start,
        read_rate=read_rate,
        flop_rate=flop_rate,
        kernels=kernels,
        spans=spans,
    )


def flop_rate(size: int = 512, rounds: int = 4) -> float:
    """Floating point operations a second of NumPy's own f32 matrix product: the ceiling that is easily had."""
    a = np.ones((size, size), np.float32)
    times: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        a @ a  # pyright: ignore[reportUnusedExpression]  # its time is what is wanted
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


Step = tuple[int, int, Marks]


def _step(told: Clock, function: Function, ids: Sequence[int], position: int) -> Step:
    """(begin, end, marks) of one step."""
    told.marks.fill(0)
    start = time.perf_counter_ns()
    if function.name == "decode":
        told.device.row(ids[0], position, 0)
    else:
        told.device.block(function.name, ids, position, 0)
    return start, time.perf_counter_ns(), told.marks.copy()


def _kernels(function: Function, steps: Sequence[Step], start: int, marks: Marks, seen: int) -> list[KernelTime]:
    every: NDArray[np.int64] = np.array([_lengths(m) for _, _, m in steps])
    out: list[KernelTime] = []
    for i, op in enumerate(function.ops):
        begin, length = int(marks[:, 2 * i].min()), int(_lengths(marks)[i])
        if not begin:
            continue  # a window on something else: no code
        low, high = np.quantile(every[:, i], (0.25, 0.75))
        moved, flops = bytes_and_flops(op, seen, 1)
        out.append(
            KernelTime(
                index=i,
                name=op.results[0].name,
                template=op.template or op.name,
                layer=layer if (layer := layer_of(op)) is not None else -1,
                ops=tuple(_names(op)),
                start_ns=begin - start,
                ns=length,
                spread_ns=int(high - low),
                bytes=moved,
                flops=flops,
            )
        )
    return out


def _lengths(marks: Marks) -> NDArray[np.int64]:
    """From the first thread's begin to the last one's end."""
    lengths: NDArray[np.int64] = marks[:, 1::2].max(axis=0) - marks[:, ::2].min(axis=0)
    return lengths


def _names(op: Operation) -> list[str]:
    return [o.name for o in op.body.ops] if op.body is not None else [op.name]
