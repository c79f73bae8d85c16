"""A plan on the NumPy device: Python is printed from its lowered IR, and narrow weights are expanded or tiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from graphllm.codegen.kernels.numpy.convert import expanded, tile_rows
from graphllm.codegen.numpy.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.link import Expand, check_kernels, check_memory, check_weights
from graphllm.ir.core import Module, Operation, Weight
from graphllm.plan.place import size_text
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.interface import check_interface
from graphllm.runtime.memory import available_bytes
from graphllm.runtime.numpy_device import NumpyDevice

_SHARE_OF_MEMORY: Final = 0.5  # that 16-bit weights may take when they are expanded


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
    check_kernels(module, str(plan.path), NUMPY)
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
