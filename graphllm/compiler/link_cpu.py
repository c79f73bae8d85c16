"""A plan on the native device: code is printed from its lowered IR and built, unless it was, and given the weights."""

from __future__ import annotations

from graphllm.codegen.cpu.order import weight_names
from graphllm.codegen.cpu.target import CPU
from graphllm.compiler.link import check_kernels, check_memory, check_weights
from graphllm.compiler.native.build import Say, built
from graphllm.compiler.native.printed import printed
from graphllm.errors import RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.cores import logical_cores, physical_cores
from graphllm.runtime.cpu_device import CpuDevice
from graphllm.runtime.interface import check_interface

MAX_THREADS = 256


def link_cpu(
    plan: PlanFile,
    module: Module,
    threads: int = 0,
    say: Say = lambda line: None,
    *,
    lowered: str = "",
    timed: bool = False,
) -> CpuDevice:
    """The lowered module on the native device; 0 threads are as many as there are physical cores.

    ``lowered`` is the text that the module was parsed from: what was printed for it before is found again, where it
    is given. ``timed`` takes the text that writes down times, for profiling.

    Raises:
        PlanError: the module is no model that the runtime can run, or not the plan's; LoweredForOther where lowering
            the plan again will help.
        NativeError: no compiler, or one that fails.
        RunError: it does not fit in memory, or a number of threads that makes no sense.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise RunError(f"threads: {threads}; expected 1 to {MAX_THREADS}, or 0 for the number of cores")
    check_interface(module, str(plan.path))
    check_kernels(module, str(plan.path), CPU)
    check_weights(plan, module)
    check_memory(module)

    def text() -> str:
        from graphllm.codegen.cpu.generate import generate  # what a warm start does not need

        return generate(module, timed=timed)

    library = built(printed(lowered, text) if lowered and not timed else text(), say)
    most = logical_cores()
    if threads > most:
        say(f"threads: {threads} asked for, {most} used: more than there are processors would wait for each other")
    chosen = min(threads, most) or physical_cores()
    return CpuDevice(module, library, weight_names(module), plan.weight, threads=chosen)
