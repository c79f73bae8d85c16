"""Where the time of a step goes: every kernel timed, over some steps, the median step told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.api import Model
from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.targets import DeviceName, target_of
from graphllm.errors import RunError
from graphllm.ir.core import Function, Module
from graphllm.measure.diff.on_device import one_by_one
from graphllm.measure.profile.clocks import Clock, LaunchClock, Marks, Step, clock, run_step
from graphllm.measure.profile.parts import Part
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.engine import Engine
from graphllm.view.profile_data import KernelTime, Profile, Span

SIMULATED: Final = "times are the simulator's own: they say nothing of a GPU's"


@dataclass(frozen=True, slots=True)
class What:
    """What is timed: a function behind ``position`` tokens, ``steps`` times; ``apart``: each operation by itself."""

    function: str = "decode"
    position: int = 0
    steps: int = 30
    apart: bool = False


def profile(
    model: Model,
    what: What,
    *,
    threads: int = 0,
    number: int = 0,
    read_rate: float = 0.0,
    flop_rate: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> Profile:
    """Time a step of a model kernel by kernel, on the device that it was loaded on.

    Args:
        threads, number: of the device, where the code that tells times is put on one of its own.
        read_rate, flop_rate: of this machine, measured; 0 where they are not known.

    Raises:
        RunError: a function that the model has not, more positions than its context.
        NativeError, DeviceError: as ``load`` does.
    """
    device = cast(DeviceName, model.engine.device.name)
    module = model.lowered
    if what.apart:
        module, _ = run_passes(model.plan.module, lowering(one_by_one(BACKENDS[target_of(device)].target)))
    function = _checked(module, what)
    told = _clock(model, module, device, threads, number, say)
    engine = Engine(told.device, module)
    rows = function.inputs[0].type.shape[0]
    if what.position + rows > engine.context or what.position < 0:
        raise RunError(f"profile: position {what.position}; expected at most {engine.context - rows}")
    random = Random(0)
    ids = [random.randrange(engine.vocab) for _ in range(what.position + rows)]
    if what.position:
        engine.feed(ids[: what.position])
    own = ids[what.position :]
    steps = [told.step(function, own, what.position) for _ in range(what.steps + 2)][2:]
    plain = 0 if what.apart else _plain(model, function, ids, what)
    simulated = device == "cuda-sim"
    rates = (0.0, 0.0) if simulated else (read_rate, flop_rate)
    middle = steps[int(np.argsort([step.ns for step in steps])[len(steps) // 2])]
    parts = told.parts(function, what.position + rows)
    kernels = tuple(_kernels(parts, steps, middle.marks, rates))
    spans = tuple(
        Span(part.index, thread, int(row[2 * i]), int(row[2 * i + 1] - row[2 * i]), part.part)
        for i, part in enumerate(parts)
        for thread, row in enumerate(middle.marks)
        if row[2 * i + 1]
    )
    return Profile(
        device=device,
        threads=told.threads,
        function=what.function,
        rows=rows,
        position=what.position,
        steps=what.steps,
        step_ns=middle.ns,
        read_rate=rates[0],
        flop_rate=rates[1],
        kernels=kernels,
        spans=spans,
        plain_ns=plain,
        note=SIMULATED if simulated else "",
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


def _checked(module: Module, what: What) -> Function:
    function = module.functions.get(what.function)
    if function is None or what.steps < 1:
        known = ", ".join(module.functions)
        raise RunError(f"profile: {what.steps} steps of {what.function}; expected 1 or more of {known}")
    if function.rows != "consecutive" and function.inputs[0].type.shape[0] > 1:
        raise RunError(f"profile: {what.function} takes several sequences; expected decode, prefill_N or score_N")
    return function


def _clock(
    model: Model, module: Module, device: DeviceName, threads: int, number: int, say: Callable[[str], None]
) -> Clock:
    own = model.engine.device
    if isinstance(own, CudaDevice) and module is model.lowered:
        return LaunchClock(own)  # the same kernels: they need not be told to tell times
    return clock(model.plan.file, module, device, threads=threads, number=number, say=say)


def _plain(model: Model, function: Function, ids: Sequence[int], what: What) -> int:
    """Nanoseconds of the same step in the code that plans run as: the median."""
    model.engine.truncate(0)
    if what.position:
        model.engine.feed(ids[: what.position])
    times: list[int] = []
    for _ in range(what.steps + 2):
        begin = time.perf_counter_ns()
        run_step(model.engine.device, function, ids[what.position :], what.position)
        times.append(time.perf_counter_ns() - begin)
    return round(median(times[2:]))


def _kernels(
    parts: Sequence[Part], steps: Sequence[Step], marks: Marks, rates: tuple[float, float]
) -> list[KernelTime]:
    every: NDArray[np.int64] = np.array([_lengths(step.marks) for step in steps])
    out: list[KernelTime] = []
    for i, part in enumerate(parts):
        if not marks[:, 2 * i + 1].any():
            continue  # a window on something else: no code
        low, high = np.quantile(every[:, i], (0.25, 0.75))
        begin = int(marks[:, 2 * i].min())
        length, spread = int(_lengths(marks)[i]), int(high - low)
        out.append(part.time(begin, length, spread, _shares(part, rates)))
    return out


def _shares(part: Part, rates: tuple[float, float]) -> tuple[float, ...]:
    """How a kernel's time may be shared out among its operations: by what each would take at least by itself."""
    read, compute = rates
    least = [
        max(moved / read if read else float(moved), flops / compute if compute else 0.0) for moved, flops in part.own
    ]
    whole = sum(least)
    return tuple(round(x / whole, 4) if whole else 1.0 / len(least) for x in least)


def _lengths(marks: Marks) -> NDArray[np.int64]:
    """From the first thread's begin to the last one's end."""
    lengths: NDArray[np.int64] = marks[:, 1::2].max(axis=0) - marks[:, ::2].min(axis=0)
    return lengths
