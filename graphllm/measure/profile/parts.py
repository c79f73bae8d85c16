"""What the time of a step is told by: kernels of a function, or on a GPU launches, with what each cannot do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from graphllm.compiler.launches.bytes_moved import moved, sequences
from graphllm.ir.core import Function, Operation
from graphllm.measure.profile.cost import bytes_and_flops
from graphllm.plan.launch import Stream
from graphllm.view.profile_data import KernelTime
from graphllm.view.scope import layer_of

SILENT: Final = frozenset({"reshape", "split", "cast", "dequantize"})  # done on the way to an operation that reads them


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is timed by itself; the fields are those of ``KernelTime``."""

    index: int
    part: int
    name: str
    template: str
    layer: int
    ops: tuple[str, ...]
    code: str
    bytes: int
    flops: int
    own: tuple[tuple[int, int], ...]  # bytes and flops of each of ``ops`` as if it stood alone, none of silent ones

    def time(self, start_ns: int, ns: int, spread_ns: int, op_shares: tuple[float, ...]) -> KernelTime:
        """What it took."""
        return KernelTime(
            index=self.index,
            name=self.name,
            template=self.template,
            layer=self.layer,
            ops=self.ops,
            start_ns=start_ns,
            ns=ns,
            spread_ns=spread_ns,
            bytes=self.bytes,
            flops=self.flops,
            part=self.part,
            code=self.code,
            op_shares=op_shares,
        )


def kernels_of(function: Function, seen: int) -> list[Part]:
    """Every operation of a lowered function, whose rows see ``seen`` positions."""
    return [
        _part(i, 0, [op], op.template or op.name, "", seen, *bytes_and_flops(op, seen, 1))
        for i, op in enumerate(function.ops)
    ]


def launches_of(stream: Stream, function: Function, seen: int) -> list[Part]:
    """Every launch of a function: its bytes are those that the launch plan counts.

    A launch that prepares another's work has that one's index and none of its operations; one that does the work of
    several kernels has the first one's.
    """
    out: list[Part] = []
    for at, launch in enumerate(stream.launches):
        following = stream.launches[at + 1].op if at + 1 < len(stream.launches) else len(function.ops)
        ops = function.ops[launch.op : max(launch.op, following)]
        flops = sum(bytes_and_flops(op, seen, 1)[1] for op in ops)
        part = out[-1].part + 1 if out and out[-1].index == launch.op else 0
        template = launch.what or launch.kernel
        own = ops or function.ops[launch.op : launch.op + 1]
        bytes_moved = moved(launch, seen, sequences(stream, function))
        out.append(_part(launch.op, part, own, template, launch.kernel, seen, bytes_moved, flops))
    return out


def _part(
    index: int, part: int, ops: Sequence[Operation], template: str, code: str, seen: int, moved_bytes: int, flops: int
) -> Part:
    first = ops[0]
    layer = layer_of(first)
    inner = [o for op in ops for o in (op.body.ops if op.body is not None else (op,))]
    own = tuple((0, 0) if o.name in SILENT else bytes_and_flops(o, seen, 1) for o in inner)
    names = tuple(o.name for o in inner)
    name = first.results[0].name
    return Part(index, part, name, template, -1 if layer is None else layer, names, code, moved_bytes, flops, own)
