"""A plan becomes something that runs: its lowered IR is verified, code is printed afresh, a device takes it.

Nothing that came in the file is executed. Frontends and passes are not needed, and not imported, unless the plan must
be lowered again.
"""

from __future__ import annotations

from typing import Final, Literal

from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.ir.core import Module
from graphllm.ir.lifetime import owns_memory
from graphllm.ir.opdef import OPS
from graphllm.ir.parser import parse_module
from graphllm.ir.target import Target
from graphllm.ir.verifier import verify
from graphllm.plan.place import size_text
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.memory import available_bytes

Expand = Literal["auto", "always", "never"]
_LONGEST: Final = 500  # characters of a message that quotes what a plan says


def module_of(plan: PlanFile, section: str) -> Module:
    """The module of a text section, parsed and verified. Raises PlanError for a section that is not there or broken."""
    where = f"{plan.path}: section {section}"
    text = plan.sections.get(section)
    if text is None:
        raise PlanError(f"{where}: not in this plan; it has {', '.join(sorted(plan.sections)) or 'none'}")
    try:
        module = parse_module(text, where)
        verify(module)
    except RecursionError:
        raise PlanError(f"{where}: nested too deeply") from None
    except GraphLLMError as error:
        line = str(error).splitlines()[0]  # what follows shows the place; a plan's text is not what its user wrote
        line = line if line.startswith(where) else f"{where}: {line}"
        raise PlanError(line[: len(where) + _LONGEST]) from None
    return module


def check_weights(plan: PlanFile, module: Module) -> None:
    """Raise PlanError unless the plan holds every weight the module reads, as the module says."""
    for weight in module.stored_weights():
        spec = plan.weights.get(weight.name)
        if spec is None:
            raise PlanError(f"{plan.path}: weight {weight.name}: missing; the IR reads it as {weight.type}")
        if (spec.dtype, tuple(spec.shape)) != (weight.type.dtype, weight.type.shape):
            raise PlanError(f"{plan.path}: weight {weight.name}: expected {weight.type}, got {spec}")


class LoweredForOther(PlanError):
    """Lowered IR that is a model, but not one for this generator: another version's. Lowering it again helps."""


def check_kernels(module: Module, where: str, target: Target) -> None:
    """Raise LoweredForOther unless the generator can write every kernel: known templates, and memory for all of it."""
    templates = {t.name for t in target.templates} | set(OPS)
    for function in module.functions.values():
        at = f"{where}: func @{function.name}"
        if function.arena is None:
            raise LoweredForOther(f"{at}: its memory was not planned; expected arena and a size")
        for kernel in function.ops:
            if kernel.body is not None and kernel.template not in templates:
                known = ", ".join(sorted(templates))
                raise LoweredForOther(f"{at}: kernel {kernel.template[:40]!r}: expected one of {known}")
        for op in function.walk():
            what = f"{at}: {op.name} giving {op.results[0].ref}"
            need, room = target.scratch(op), op.scratch[1] if op.scratch is not None else 0
            if room < need or room % 4:
                raise LoweredForOther(f"{what}: expected {need} bytes of scratch, got {room}")
            everywhere = target.stepwise and owns_memory(op) and not target.virtual(op)
            if everywhere and any(v.arena is None for v in op.results):
                raise LoweredForOther(f"{what}: expected a place in the arena, it has none")


def check_memory(module: Module) -> None:
    """Raise RunError when caches and arena are more than the machine has.

    Asked before anything is allocated: where memory is overcommitted, an allocation of any size succeeds.
    """
    states = sum(s.type.bytes for s in module.states.values())
    arena = max((f.arena or 0 for f in module.functions.values()), default=0)
    room = available_bytes()
    if room is not None and states + arena > room:
        raise RunError(
            f"memory: the KV cache takes {size_text(states)} and the arena {size_text(arena)}, more than the "
            f"{size_text(room)} this machine has free; choose a smaller --context or fewer --slots"
        )
