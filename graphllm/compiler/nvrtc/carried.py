"""Machine code that a plan carries: for machines that cannot compile, and only for those who trust where it came from.

It is found by what it was compiled from: kernels are printed afresh when a plan is loaded, and code that another text
gave is never taken for theirs. What is damaged is not used either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphllm.compiler.nvrtc.build import headers
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.compiler.nvrtc.kept import key_of
from graphllm.errors import PlanError
from graphllm.plan.launch import Kernel
from graphllm.plan.plan_file import PlanFile


def section_of(kernel: Kernel, arch: str) -> str:
    """The name under which a plan carries the kernel's code."""
    includes = (part for item in headers().items() for part in item)
    return f"{arch}/{key_of((kernel.name, kernel.text, *includes))}"


def to_carry(cubins: Mapping[tuple[str, str], Cubin], kernels: Mapping[str, Kernel]) -> dict[str, bytes]:
    """Code by the names that a plan carries it under."""
    return {section_of(kernels[name], arch): cubin.code for (name, arch), cubin in cubins.items()}


def carried(plan: PlanFile, kernels: Iterable[Kernel], archs: Sequence[str]) -> dict[str, Cubin]:
    """What the plan has of these kernels, by name, for the first of the architectures that it has them for."""
    out: dict[str, Cubin] = {}
    for kernel in kernels:
        for arch in archs:
            name = section_of(kernel, arch)
            if name not in plan.code:
                continue
            try:
                out[kernel.name] = Cubin(kernel.name, arch, plan.machine_code(name), "")
            except PlanError:
                continue
            break
    return out


def carried_archs(plan: PlanFile) -> list[str]:
    """Architectures that the plan carries code for."""
    return sorted({name.partition("/")[0] for name in plan.code})
