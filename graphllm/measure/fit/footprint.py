"""The memory a lowered module will take on a device, to the byte, before any of it is taken.

One function a target, each the mirror of what its device does; a test holds them against what devices then say of
themselves. A target that is not in the table takes what every device does: weights, caches, arena.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from graphllm.codegen.cpu.generate import generate_workspace
from graphllm.codegen.cuda.generate import generate as generate_cuda
from graphllm.codegen.numpy.target import TILED, reads_weight_only
from graphllm.compiler.link import Expand
from graphllm.compiler.link_numpy import tile_floats, tiled_weights
from graphllm.compiler.native.build import built
from graphllm.ir.core import Module, Operation
from graphllm.ir.lifetime import ALIGNMENT
from graphllm.plan.container import TensorSpec
from graphllm.plan.header import lay_out
from graphllm.runtime.cores import physical_cores
from graphllm.runtime.cuda.places import Sizes

_PAGE: Final = 4096  # that native code's threads begin at


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes, and what is behind them.

    Attributes:
        weights: as they lie in the plan; a device of this machine maps them, so they are the system's to share.
        converted: weights that are held in another form, or moved to a cache line, beside; room to convert them in.
        states: the KV cache of all slots; ``arena``: activations of the largest function.
        workspace: what threads, or launches, work in.
    """

    weights: int
    converted: int
    states: int
    arena: int
    workspace: int

    @property
    def total(self) -> int:
        return self.weights + self.converted + self.states + self.arena + self.workspace


@dataclass(frozen=True, slots=True)
class Setting:
    """What decides a footprint beside the module: how many threads, how weights are expanded, what is free."""

    threads: int = 0  # one for each physical core
    expand: Expand = "auto"
    room: int | None = None  # bytes


def footprint(module: Module, target: str, setting: Setting) -> Footprint:
    """The memory of a module that was lowered for a target.

    Raises:
        NativeError: the target cpu, and no compiler to ask how wide its registers are.
    """
    more = _MORE.get(target)
    converted, workspace = more(module, setting) if more is not None else (0, 0)
    return Footprint(
        weights=sum(w.type.bytes for w in module.stored_weights()),
        converted=converted,
        states=sum(s.type.bytes for s in module.states.values()),
        arena=max((f.arena or 0 for f in module.functions.values()), default=0),
        workspace=workspace,
    )


def _numpy(module: Module, setting: Setting) -> tuple[int, int]:
    """Weights expanded to f32 when every function is bound, and the tile."""
    tiled, _ = tiled_weights(module, setting.expand, setting.room)
    made: dict[tuple[str, ...], int] = {}
    for conversion, reader in _conversions_read(module):
        whole = reader.name in TILED and conversion.result is reader.operands[1]
        if not (whole and conversion.operands[0].name in tiled):
            made[tuple(v.name for v in conversion.operands)] = 4 * conversion.result.type.numel
    return sum(made.values()) + 4 * tile_floats(module, tiled), 0


def _conversions_read(module: Module) -> Iterator[tuple[Operation, Operation]]:
    """(conversion of a weight, an operation that reads it), within each kernel."""
    for function in module.functions.values():
        for op in function.ops:
            inner = op.body.ops if op.body is not None else (op,)
            made = {id(o.results[0]): o for o in inner if reads_weight_only(o)}
            for reader in inner:
                yield from ((made[id(v)], reader) for v in reader.operands if id(v) in made)


def _cpu(module: Module, setting: Setting) -> tuple[int, int]:
    """Copies of weights that do not begin at a cache line; each thread's own memory, which depends on the machine's
    registers."""
    library = ctypes.CDLL(str(built(generate_workspace(module))))
    library.graphllm_thread_workspace.restype = ctypes.c_long
    each = int(library.graphllm_thread_workspace())
    return _unaligned(module), each * (setting.threads or physical_cores()) + _PAGE


def _unaligned(module: Module) -> int:
    """Bytes of the weights that a plan cannot lay at a cache line: those of odd sizes, behind the first of them."""
    specs = lay_out(TensorSpec(w.name, w.type.dtype, w.type.shape) for w in module.stored_weights())
    starts = accumulate((spec.nbytes for spec in specs), initial=0)
    return sum(spec.nbytes for spec, start in zip(specs, starts, strict=False) if start % ALIGNMENT)


def _cuda(module: Module, setting: Setting) -> tuple[int, int]:
    """What its three allocations take beyond what lies in them, and its launches' own memory."""
    sizes = Sizes.of(generate_cuda(module), module)
    planned = max((f.arena or 0 for f in module.functions.values()), default=0)
    return 0, sum(sizes.allocations) - sum(sizes.weights) - sum(sizes.states) - planned


_MORE: Final[dict[str, Callable[[Module, Setting], tuple[int, int]]]] = {"cpu": _cpu, "numpy": _numpy, "cuda": _cuda}
