"""Devices that write down when they begin and end each kernel: the text of a target in its timed variant.

The variant that plans run as is untouched; a mark costs some 30 ns in native code and a Python call on numpy.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphllm.codegen.cpu.generate import generate as generate_cpu
from graphllm.compiler.link import Expand, link_numpy
from graphllm.compiler.link_cpu import link_cpu
from graphllm.compiler.native.build import built
from graphllm.errors import RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.device import Device

Marks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Clock:
    """A device and the nanoseconds of its last step: [threads, 2 * operations], 0 where there was nothing to do."""

    device: Device
    marks: Marks
    threads: int


def clock(
    file: PlanFile, module: Module, target: str, *, threads: int = 0, expand: Expand = "auto",
    say: Callable[[str], None] = lambda line: None,
) -> Clock:  # fmt: skip
    """The module on a device that tells times.

    Raises:
        RunError: a target whose kernels tell no times.
        PlanError, NativeError: as for ``load``.
    """
    most = 2 * max(len(f.ops) for f in module.functions.values())
    if target == "cpu":
        device = link_cpu(file, module, threads, say, timed=True)
        marks = np.zeros((device.threads, most), np.int64)
        library = ctypes.CDLL(str(built(generate_cpu(module, timed=True))))  # the one that the device has loaded
        library.graphllm_marks.argtypes = [ctypes.c_void_p, ctypes.c_long]
        library.graphllm_marks(marks.ctypes.data, most)
        return Clock(device, marks, device.threads)
    if target == "numpy":
        marks, now = np.zeros((1, most), np.int64), time.perf_counter_ns
        row = marks[0]

        def mark(i: int) -> None:
            row[i] = now()

        return Clock(link_numpy(file, module, expand, mark), marks, 1)
    raise RunError(f"profile: {target} does not tell the times of its kernels; expected cpu or numpy")
