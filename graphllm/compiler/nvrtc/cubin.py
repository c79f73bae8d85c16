"""A kernel as machine code of one architecture, and what the assembler says it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resources:
    """What a kernel takes of a multiprocessor, as ptxas tells it.

    Attributes:
        registers: 32-bit ones of every thread.
        shared: bytes of shared memory of its own, beyond what a launch asks for.
        stack: bytes of local memory of every thread.
        spilled: bytes of registers that are stored to local memory and loaded from it, for want of registers.
    """

    registers: int
    shared: int
    stack: int
    spilled: int


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code of the kernel ``name``, with the log of its compilation."""

    name: str
    arch: str
    code: bytes
    log: str

    @property
    def resources(self) -> Resources:
        """What it takes, by its log; zeros for what the log does not say."""

        def number(pattern: str) -> int:
            found = re.search(pattern, self.log)
            return int(found[1]) if found else 0

        spilled = number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads")
        return Resources(
            number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"), number(r"(\d+) bytes stack frame"), spilled
        )
