"""A kernel of native code while it is written: what its threads need, and which part of the text it goes to."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphllm.codegen.text import KernelText


@dataclass(slots=True)
class CpuText(KernelText):
    """The body of one kernel in C++."""

    private: list[str] = field(default_factory=list[str])  # bytes of its own that a thread needs, as expressions
    many: bool = False  # it is made of what there is for many rows, which may be compiled apart
