"""A plan on a GPU, or on a simulated one: kernels are printed from its lowered IR, compiled unless they were, loaded.

What cannot work is told before weights are read: no driver, no GPU, one that kernels are not for, too little memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.link import check_kernels, check_weights
from graphllm.compiler.native.simulated import simulated
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.carried import carried, carried_archs
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.errors import NativeError
from graphllm.ir.core import Module
from graphllm.plan.launch import Program
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.cuda.arch import ARCHS, runs_on
from graphllm.runtime.cuda.calls import driver_calls
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.cuda.gpu import Gpu
from graphllm.runtime.cuda.places import Sizes
from graphllm.runtime.cuda.simulator import Simulator
from graphllm.runtime.cuda.upload import Progress
from graphllm.runtime.interface import check_interface

Say = Callable[[str], None]


def program_of(plan: PlanFile, module: Module) -> Program:
    """The kernels and launches of a plan's lowered module. Raises like ``link_cuda``."""
    check_interface(module, str(plan.path))
    check_kernels(module, str(plan.path), CUDA)
    check_weights(plan, module)
    return generate(module)


def link_cuda(
    plan: PlanFile,
    module: Module,
    *,
    number: int = 0,
    trust_code: bool = False,
    say: Say = lambda line: None,
    progress: Progress = lambda done, of: None,
) -> CudaDevice:
    """The lowered module on GPU ``number`` of those that this process sees.

    Args:
        trust_code: run machine code that the plan carries, where it is for this GPU.

    Raises:
        PlanError: the module is no model that the runtime can run, or not the plan's; LoweredForOther where lowering
            the plan again will help.
        DeviceError: no driver, no GPU, one that kernels are not made for, too little memory, or it fails.
        NativeError: kernels must be compiled, and NVRTC is not there or fails.
    """
    program = program_of(plan, module)
    gpu = Gpu(driver_calls(), number)
    try:
        Sizes.of(program, module).check(gpu.room(), gpu.what)
        cubins = machine_code(plan, program, gpu, trust_code, say)
        gpu.load({n: c.code for n, c in cubins.items()}, {n: c.arch for n, c in cubins.items()})
    except BaseException:
        gpu.close()
        raise
    device = CudaDevice(gpu, program, module, plan.weight, progress=progress)
    try:
        for function in program.streams:  # every graph, so that no step waits for one
            device.prepare(function)
    except BaseException:
        device.close()
        raise
    return device


def link_simulated(plan: PlanFile, module: Module, *, arch: str = "sm_90", say: Say = lambda line: None) -> CudaDevice:
    """The lowered module on a GPU that the CPU plays; with $GRAPHLLM_SIM_WATCH=1 every access to memory is looked at.

    Raises like ``link_cuda``, NativeError for want of a compiler.
    """
    program = program_of(plan, module)
    watch = os.environ.get("GRAPHLLM_SIM_WATCH", "0") not in ("", "0")
    driver = Simulator(simulated(list(program.kernels.values()), arch, say, watch=watch), arch)
    try:
        Sizes.of(program, module).check(driver.room(), driver.what)
    except BaseException:
        driver.close()
        raise
    return CudaDevice(driver, program, module, plan.weight)


def machine_code(plan: PlanFile, program: Program, gpu: Gpu, trust_code: bool, say: Say) -> dict[str, Cubin]:
    """Code of every kernel: what the plan carries, if it is trusted, and the rest compiled."""
    kernels = program.kernels
    fitting = [arch for arch in reversed(ARCHS) if runs_on(arch, *gpu.capability)]
    found = carried(plan, kernels.values(), fitting) if trust_code else {}
    archs = carried_archs(plan)
    if trust_code and archs and not set(archs) & set(fitting):
        say(f"machine code in the plan is for {', '.join(archs)}; compiling for {gpu.arch}")
    elif trust_code and archs and len(found) < len(kernels):
        say(f"machine code in the plan is not of these kernels; compiling for {gpu.arch}")
    missing = [kernel for name, kernel in kernels.items() if name not in found]
    try:
        made = built(missing, [gpu.arch], say) if missing else {}
    except NativeError as error:
        if set(archs) & set(fitting) and not trust_code:
            raise NativeError(f"{error}; or run the plan's own machine code with --trust-code") from None
        raise
    return found | {name: cubin for (name, _), cubin in made.items()}
