"""What a program's kernels take and move, as a table: ``graphllm show --resources``.

Resources are what the assembler says for one architecture; bytes are counted from the launches, beside the least that
the IR's operations move. Nothing of it was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphllm.compiler.launches.bytes_moved import kernels_moved, step_moved
from graphllm.compiler.nvrtc.cubin import Resources
from graphllm.ir.core import Module
from graphllm.plan.launch import Launch, Program, Stream
from graphllm.plan.place import size_text
from graphllm.runtime.cuda.arch import LIMITS, REGISTERS_SM

POSITIONS = 128  # that each row sees, where nobody says


@dataclass(frozen=True, slots=True)
class Balance:
    """How blocks of a launch fall on the multiprocessors: the busiest one's share over a fair one's, 1 at best."""

    blocks: int
    resident: int  # blocks that a multiprocessor holds at a time
    busiest: float


def balance(launch: Launch, resources: Resources, arch: str, chunks: int) -> Balance:
    """Of a launch on the largest usual card of an architecture."""
    blocks = launch.grid[0] * (chunks if launch.chunked else launch.grid[1])
    fair = blocks / LIMITS[arch].sms
    return Balance(blocks, resident(launch, resources, arch), -(-blocks // LIMITS[arch].sms) / fair)


def resident(launch: Launch, resources: Resources, arch: str) -> int:
    """Blocks of a launch that one multiprocessor holds at a time, by threads, registers and shared memory."""
    limits = LIMITS[arch]
    registers = max(1, -(-resources.registers // 8) * 8 * launch.block)
    shared = launch.shared + resources.shared + limits.shared_reserved
    by_shared = limits.shared_sm // shared if shared else limits.blocks_sm
    return min(limits.threads_sm // launch.block, REGISTERS_SM // registers, by_shared, limits.blocks_sm)


def kernel_resources(program: Program, resources: Mapping[str, Resources], arch: str) -> dict[str, dict[str, int]]:
    """What each kernel takes of a multiprocessor, as its first launch has it; named like the columns of the table."""
    out: dict[str, dict[str, int]] = {}
    for stream in program.streams.values():
        for launch in (*stream.launches, *stream.choice):
            if launch.kernel in out or launch.kernel not in resources:
                continue
            own = resources[launch.kernel]
            out[launch.kernel] = {
                "threads": launch.block,
                "shared": launch.shared + own.shared,
                "registers": own.registers,
                "spilled": own.spilled,
                "resident": resident(launch, own, arch),
            }
    return out


def resources_text(
    program: Program,
    module: Module,
    resources: Mapping[str, Resources],
    arch: str,
    functions: tuple[str, ...] = ("decode",),
    positions: int = POSITIONS,
) -> str:
    """A table for each of the functions.

    Args:
        resources: of every kernel, by name, on ``arch``.
        positions: that each row of a step sees.
    """
    parts = [_function(program.streams[name], module, resources, arch, positions) for name in functions]
    return "\n\n".join(parts)


def _function(stream: Stream, module: Module, resources: Mapping[str, Resources], arch: str, positions: int) -> str:
    function = module.functions[stream.name]
    whole = step_moved(stream, function, positions)
    each = kernels_moved(stream, function, positions)
    chunks = next((b for b in stream.buckets if b * max(1, stream.chunk) >= positions), stream.buckets[-1])
    head = ("kernel", "launches", "blocks", "threads", "shared", "registers", "spilled", "an SM", "bytes", "floor", "")
    rows: list[tuple[str, ...]] = []
    launches = {launch.kernel: launch for launch in (*stream.launches, *stream.choice)}
    busiest = 0.0
    for name, launch in launches.items():
        r, b = resources[name], balance(launch, resources[name], arch, chunks)
        m = each.get(name)
        counted = ("-", "-", "-") if m is None else (size_text(m.moved), size_text(m.floor), _ratio(m.moved, m.floor))
        busiest += 0 if m is None else m.moved * b.busiest
        numbers = (m.launches if m else 1, b.blocks, launch.block, launch.shared + r.shared, r.registers, r.spilled)
        rows.append((name, *map(str, numbers), str(b.resident), *counted))
    choosing = f" and {len(stream.choice)} to choose tokens" if stream.choice else ""
    said = (
        f"{stream.name} on {arch}: {whole.launches} launches{choosing}, {size_text(whole.moved)} at {positions} "
        f"positions, {whole.ratio:.3f} of the floor of {size_text(whole.floor)}; with {LIMITS[arch].sms} SMs the "
        f"busiest one moves {busiest / max(1, whole.moved):.2f} of a fair share"
    )
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    table = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join([said, "", *(line.rstrip() for line in table)])


def _ratio(moved: int, floor: int) -> str:
    return f"{moved / floor:.3f}" if floor else "-"
