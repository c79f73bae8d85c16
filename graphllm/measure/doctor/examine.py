"""The whole examination: the machine, what every backend needs of it, and where things are kept.

A backend's section is a function without arguments that never fails; it says what is wrong instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from graphllm.measure.doctor.cpu_backend import cpu_backend
from graphllm.measure.doctor.cuda_backend import cuda_backend
from graphllm.measure.doctor.finding import Finding, Section
from graphllm.measure.doctor.machine import machine, optional_libraries
from graphllm.measure.doctor.numpy_backend import numpy_backend
from graphllm.measure.doctor.storage import storage

SECTIONS: Final[tuple[tuple[str, Callable[[], list[Finding]]], ...]] = (
    ("machine", machine),
    ("target numpy", numpy_backend),
    ("target cpu", cpu_backend),
    ("target cuda", cuda_backend),
    ("cache", storage),
    ("optional libraries", optional_libraries),
)


def examine() -> list[Section]:
    """Every section, in order. The section of the target cpu builds a small program and times it: a few seconds."""
    return [Section(name, tuple(look())) for name, look in SECTIONS]
