"""Devices that write down when they begin and end each kernel.

On cpu and numpy that is the text of a target in its timed variant, where a mark costs some 30 ns in native code and a
Python call on numpy. On cuda it is a graph with events between its launches. What plans run as is untouched.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from graphllm.codegen.cpu.generate import generate as generate_cpu
from graphllm.compiler.link import Expand
from graphllm.compiler.link_cpu import link_cpu
from graphllm.compiler.link_cuda import link_cuda, link_simulated
from graphllm.compiler.link_numpy import link_numpy
from graphllm.compiler.native.build import built
from graphllm.compiler.targets import DeviceName
from graphllm.ir.core import Function, Module
from graphllm.measure.profile.parts import Part, kernels_of, launches_of
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.device import Device

Marks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: nanoseconds that it took, and begin and end of each part since it began, [threads, 2 * parts].

    Both are 0 where a part has nothing to do.
    """

    ns: int
    marks: Marks


class Clock(Protocol):
    """A device that tells times."""

    @property
    def device(self) -> Device: ...

    @property
    def threads(self) -> int: ...

    def parts(self, function: Function, seen: int) -> list[Part]:
        """What a function's time is told by, where its rows see ``seen`` positions."""
        ...

    def step(self, function: Function, ids: Sequence[int], position: int) -> Step:
        """Run one step of a function on ids that begin at a position of slot 0."""
        ...


def clock(
    file: PlanFile, module: Module, device: DeviceName, *, threads: int = 0, number: int = 0, expand: Expand = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Clock:  # fmt: skip
    """The module on a device that tells times. Raises PlanError, NativeError, DeviceError as ``load`` does."""
    most = 2 * max(len(f.ops) for f in module.functions.values())
    if device == "cpu":
        native = link_cpu(file, module, threads, say, timed=True)
        marks = np.zeros((native.threads, most), np.int64)
        library = ctypes.CDLL(str(built(generate_cpu(module, timed=True))))  # the one that the device has loaded
        library.graphllm_marks.argtypes = [ctypes.c_void_p, ctypes.c_long]
        library.graphllm_marks(marks.ctypes.data, most)
        return MarkClock(native, native.threads, marks)
    if device == "numpy":
        marks, now = np.zeros((1, most), np.int64), time.perf_counter_ns
        row = marks[0]

        def mark(i: int) -> None:
            row[i] = now()

        return MarkClock(link_numpy(file, module, expand, mark), 1, marks)
    if device == "cuda":
        return LaunchClock(link_cuda(file, module, number=number, say=say))
    return LaunchClock(link_simulated(file, module, say=say))


@dataclass(frozen=True, slots=True)
class MarkClock:
    """Code that leaves a mark before and behind every kernel."""

    device: Device
    threads: int
    marks: Marks  # of the last step, by the clock of this machine

    def parts(self, function: Function, seen: int) -> list[Part]:
        return kernels_of(function, seen)

    def step(self, function: Function, ids: Sequence[int], position: int) -> Step:
        self.marks.fill(0)
        begin = time.perf_counter_ns()
        run_step(self.device, function, ids, position)
        taken = time.perf_counter_ns() - begin
        return Step(taken, np.where(self.marks != 0, self.marks - begin, 0))


class LaunchClock:
    """Launches one after another, with events between them; drawn as if the first began with the step."""

    threads = 1

    def __init__(self, device: CudaDevice) -> None:
        self.device = device

    def parts(self, function: Function, seen: int) -> list[Part]:
        return launches_of(self.device.program.streams[function.name], function, seen)

    def step(self, function: Function, ids: Sequence[int], position: int) -> Step:
        taken, ends = self.device.time_launches(function.name, ids, position, 0)
        marks = np.empty((1, 2 * len(ends)), np.int64)
        marks[0, ::2], marks[0, 1::2] = [0, *ends[:-1]], ends
        return Step(taken, marks)


def run_step(device: Device, function: Function, ids: Sequence[int], position: int) -> None:
    """The step as everybody runs it."""
    if function.name == "decode":
        device.row(ids[0], position, 0)
    else:
        device.block(function.name, ids, position, 0)
