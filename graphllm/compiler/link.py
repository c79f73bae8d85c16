"""A plan becomes something that runs: its lowered IR is verified, code is printed afresh, a device takes it.

Nothing that came in the file is executed. Frontends and passes are not needed, and not imported, unless the plan must
be lowered again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from graphllm.codegen.kernels.numpy.convert import expanded, tile_rows
from graphllm.codegen.numpy.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.ir.core import Module, Operation, Weight
from graphllm.ir.lifetime import owns_memory
from graphllm.ir.opdef import OPS
from graphllm.ir.parser import parse_module
from graphllm.ir.target import Target
from graphllm.ir.verifier import verify
from graphllm.plan.place import size_text
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.interface import check_interface
from graphllm.runtime.memory import available_bytes
from graphllm.runtime.numpy_device import NumpyDevice

Expand = Literal["auto", "always", "never"]
_LONGEST = 500  # characters of a message that quotes what a plan says
_SHARE_OF_MEMORY = 0.5  # that 16-bit weights may take when they are expanded


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


def check_kernels(module: Module, where: str, target: Target = NUMPY) -> None:
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


def link_numpy(
    plan: PlanFile, module: Module, expand: Expand, mark: Callable[[int], None] | None = None
) -> NumpyDevice:
    """The lowered module on the NumPy device.

    ``mark`` is called before operation i of every step with 2i, and after it with 2i + 1, for profiling.

    Raises:
        PlanError: the module is no model that the runtime can run, or not the plan's; LoweredForOther where lowering
            the plan again will help.
        RunError: it does not fit in memory.
    """
    check_interface(module, str(plan.path))
    check_kernels(module, str(plan.path))
    check_weights(plan, module)
    check_memory(module)
    tiled, storage = tiled_weights(module, expand, available_bytes())
    return NumpyDevice(
        module,
        generate(module, tiled, timed=mark is not None),
        plan.weight,
        expanded,
        storage=storage,
        tile_floats=tile_floats(module, tiled),
        given={"mark": mark} if mark is not None else {},
    )


def tile_floats(module: Module, tiled: frozenset[str]) -> int:
    """Floats of the buffer in which weights are widened tile by tile."""
    matrices = [(op, op.operands[0]) for op in _conversions(module) if op.operands[0].name in tiled]
    matrices += [(op, op.operands[2]) for f in module.functions.values() for op in f.walk() if op.name == "linear_int8"]
    rooms = [
        tile_rows(w.type.shape, int(str(op.attrs.get("group", 0)))) * w.type.shape[1]
        for op, w in matrices
        if len(w.type.shape) == 2
    ]
    return max(rooms, default=0)


def narrow_matrices(module: Module) -> dict[str, Weight]:
    """Stored matrices, by name, that are read through a conversion to f32: those that may be converted tile by tile."""
    sources = (v for op in _conversions(module) for v in op.operands[:1])
    return {v.name: v for v in sources if isinstance(v, Weight) and len(v.type.shape) == 2}


def int8_matrices(module: Module) -> frozenset[str]:
    """Those of int8 groups: converted tile by tile unless it is asked otherwise."""
    return frozenset(name for name, w in narrow_matrices(module).items() if w.type.dtype == "i8")


def _conversions(module: Module) -> Iterator[Operation]:
    return (op for f in module.functions.values() for op in f.walk() if NUMPY.virtual(op))


def tiled_weights(module: Module, expand: Expand, room: int | None) -> tuple[frozenset[str], str]:
    """Weights to convert tile by tile, and why, in words: int8, and 16-bit ones where f32 has no room or ``never``.

    ``room`` is how many bytes are free, None where that is not known.
    """
    matrices, int8 = narrow_matrices(module), int8_matrices(module)
    sixteen_bit = frozenset(matrices) - int8
    if not matrices:
        return int8, ""
    if expand == "always":
        return frozenset(), "weights expanded to f32"
    if not sixteen_bit:
        return int8, "int8 weights converted tile by tile, every step"
    need = 4 * sum(matrices[name].type.numel for name in sixteen_bit)
    if expand == "auto" and (room is None or need <= room * _SHARE_OF_MEMORY):
        return int8, f"16-bit weights expanded to f32, {size_text(need)}"
    words = "16-bit weights converted tile by tile, every step"
    if expand == "auto" and room is not None:
        words += f": in f32 they take {size_text(need)}, {size_text(room)} is free"
    return frozenset(matrices), words
