"""Launches of a program checked before anybody runs them, on no GPU: order, memory, sizes.

What is known: kernels of a stream begin in order, each may begin before those ahead of it have ended, and each waits
for all of them before it touches anything but what it says it reads early. From that it follows that

- what is read early must not be written by any launch of the stream;
- what is read of the arena otherwise must have been written, to the byte, by launches ahead;
- what is written there must be wanted: read by a launch behind before it is written over, or be the logits;
- within one launch no bytes may be both read and written, or written twice, unless by the same place of the same size,
  where a block changes what it alone has read.

Nothing here shares code with the planner or the generator whose work it checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from graphllm.compiler.launches.waits import without_wait
from graphllm.errors import PlanError
from graphllm.plan.launch import Access, Launch, Pointer, Program, Stream
from graphllm.runtime.cuda.arch import GRID, LIMITS, REGISTERS_SM, THREADS
from graphllm.runtime.cuda.places import Sizes


def check_launches(
    program: Program,
    sizes: Sizes,
    headers: Iterable[str],
    archs: Sequence[str] = tuple(LIMITS),
    registers: Mapping[str, int] | None = None,
) -> None:
    """Raise PlanError for the first thing that is wrong with a program.

    Args:
        headers: texts that its kernels include.
        archs: architectures whose limits must hold.
        registers: of kernels, by name, where they are known.
    """
    for problem in problems(program, sizes, headers, archs, registers or {}):
        raise PlanError(problem)


def problems(
    program: Program, sizes: Sizes, headers: Iterable[str], archs: Sequence[str], registers: Mapping[str, int]
) -> Iterator[str]:
    """What is wrong, one line each."""
    for name in without_wait(program.kernels, headers):
        yield f"kernel {name}: never waits for the launches ahead of it"
    for stream in program.streams.values():
        where = f"func @{stream.name}"
        yield from (f"{where}: {what}" for what in _buckets(stream, sizes))
        for at, launch in enumerate((*stream.launches, *stream.choice)):
            place = f"{where}: launch {at} ({launch.kernel})"
            yield from (f"{place}: {what}" for what in _limits(program, stream, launch, archs, registers))
            yield from (f"{place}: {what}" for what in _bounds(program, stream, launch, sizes))
            yield from (f"{place}: {what}" for what in _alone(launch))
        yield from (f"{where}: {what}" for what in (*_order(stream), *_wanted(stream), *_chosen(stream)))


def _buckets(stream: Stream, sizes: Sizes) -> Iterator[str]:
    if list(stream.buckets) != sorted(set(stream.buckets)) or not stream.buckets or stream.buckets[0] < 1:
        yield f"graphs for {stream.buckets} chunks; expected rising numbers"
    elif any(launch.chunked for launch in stream.launches) and stream.chunk * stream.buckets[-1] < sizes.context:
        yield f"{stream.buckets[-1]} chunks of {stream.chunk} keys; expected {sizes.context} positions to fit"


def _limits(
    program: Program, stream: Stream, launch: Launch, archs: Sequence[str], registers: Mapping[str, int]
) -> Iterator[str]:
    if launch.kernel not in program.kernels:
        yield "no such kernel"
    if not 0 < launch.block <= THREADS or launch.block % 32:
        yield f"{launch.block} threads; expected warps of 32, at most {THREADS}"
    x, y = launch.grid[0], stream.buckets[-1] if launch.chunked and stream.buckets else launch.grid[1]
    if not (0 < x <= GRID[0] and 0 < y <= GRID[1]):
        yield f"a grid of {x} x {y} blocks; expected 1 to {GRID[0]} x {GRID[1]}"
    for arch in archs:
        if not 0 <= launch.shared <= LIMITS[arch].shared:
            yield f"{launch.shared} bytes of shared memory; {arch} has {LIMITS[arch].shared}"
            break
    need = -(-registers.get(launch.kernel, 0) // 8) * 8 * launch.block
    if need > REGISTERS_SM:
        yield f"{need} registers a block; expected at most {REGISTERS_SM}"


def _bounds(program: Program, stream: Stream, launch: Launch, sizes: Sizes) -> Iterator[str]:
    """Every address lies in a memory that there is, and is one that the launch says it touches."""

    def room(p: Pointer) -> int:
        if p.where in ("weight", "state"):
            known = sizes.weights if p.where == "weight" else sizes.states
            return known[p.index] if 0 <= p.index < len(known) else -1
        own = {"arena": program.arena, "memory": program.memory, "step": 4 * stream.words}
        return own[p.where] if p.index == 0 else -1

    for access in launch.accesses:
        end = access.pointer.offset + access.size
        if room(access.pointer) < 0:
            yield f"{_shown(access.pointer)}: there is none"
        elif access.pointer.offset < 0 or access.size < 0 or end > room(access.pointer):
            yield f"{_shown(access.pointer)}: bytes up to {end}; it has {room(access.pointer)}"
        if access.moved > access.size:
            yield f"{_shown(access.pointer)}: {access.moved} bytes moved of {access.size}"
        if access.written and access.pointer.where == "weight":
            yield f"{_shown(access.pointer)}: written"
    told = {access.pointer for access in launch.accesses}
    for argument in launch.arguments:
        if argument not in told:
            yield f"{_shown(argument)}: an argument that it does not say it touches"
        elif argument.offset % 4:
            yield f"{_shown(argument)}: expected an address of whole words"


def _alone(launch: Launch) -> Iterator[str]:
    """Nothing is read and written, or written twice, by blocks that do not wait for each other."""
    for i, a in enumerate(launch.accesses):
        for b in launch.accesses[i + 1 :]:
            if (a.written or b.written) and _overlap(a, b) and (a.pointer, a.size) != (b.pointer, b.size):
                kinds = " and ".join("writes" if x.written else "reads" for x in (a, b))
                yield f"{kinds} overlapping bytes of {_shown(a.pointer)} and {_shown(b.pointer)}"


def _order(stream: Stream) -> Iterator[str]:
    """Reads have writers ahead of them; what is read early has none at all."""
    written = _Bytes()
    all_launches = (*stream.launches, *stream.choice)
    writes = [a for launch in all_launches for a in launch.accesses if a.written]
    for at, launch in enumerate(all_launches):
        where = f"launch {at} ({launch.kernel})"
        for access in launch.accesses:
            if access.early and (access.written or any(_overlap(access, w) for w in writes)):
                yield f"{where}: {_shown(access.pointer)}: touched before it waits; a launch of the stream writes it"
            if access.pointer.where == "arena" and not access.written:
                gap = written.gap(access.pointer.offset, access.pointer.offset + access.size)
                if gap is not None:
                    yield f"{where}: reads byte {gap} of the arena, which no launch ahead of it writes"
        for access in launch.accesses:
            if access.pointer.where == "arena" and access.written:
                written.add(access.pointer.offset, access.pointer.offset + access.size)
    end = stream.logits + 4 * stream.logits_shape[0] * stream.logits_shape[1]
    if (gap := written.gap(stream.logits, end)) is not None:
        yield f"logits: byte {gap} of the arena is written by no launch"


def _wanted(stream: Stream) -> Iterator[str]:
    """Whatever a launch writes, somebody reads: where nobody does, a launch is missing or reads the wrong place."""
    launches = (*stream.launches, *stream.choice)
    size = 4 * stream.logits_shape[0] * stream.logits_shape[1]
    logits = Access(Pointer("arena", 0, stream.logits), size, size)
    for at, launch in enumerate(launches):
        for access in launch.accesses:
            if access.pointer.where != "arena" or not access.written or not access.moved:  # 0: room to work in
                continue
            if not _is_read(access, launches[at + 1 :], logits):
                yield f"launch {at} ({launch.kernel}): nobody reads what it writes to {_shown(access.pointer)}"


def _chosen(stream: Stream) -> Iterator[str]:
    """Where tokens are chosen, each row's is, from all of its logits, and the next step is told."""
    rows, size = stream.logits_shape[0], 4 * stream.logits_shape[0] * stream.logits_shape[1]
    for launch in stream.choice:
        if launch.grid[1] != stream.rows or rows != stream.rows:
            yield f"a choice of {launch.grid[1]} tokens from {rows} rows of logits; expected {stream.rows} of each"
        if not any(a.pointer == Pointer("arena", 0, stream.logits) and a.size == size for a in launch.accesses):
            yield f"a choice that does not say it reads all {size} bytes of logits"
        if not any(a.pointer.where == "step" and a.written and a.size == 4 * stream.words for a in launch.accesses):
            yield "a choice that does not say it writes the words of the step"


def _is_read(written: Access, behind: Sequence[Launch], logits: Access) -> bool:
    left = [(written.pointer.offset, _end(written))]  # bytes that nobody has written over

    def read(access: Access) -> bool:
        at, end = access.pointer.offset, _end(access)
        return access.pointer.where == "arena" and any(at < high and low < end for low, high in left)

    for launch in behind:
        if any(read(a) for a in launch.accesses if not a.written):
            return True
        for a in launch.accesses:
            if a.written and a.pointer.where == "arena":
                at, end = a.pointer.offset, _end(a)
                cut = [piece for low, high in left for piece in ((low, min(high, at)), (max(low, end), high))]
                left = [(low, high) for low, high in cut if low < high]
    return read(logits)


class _Bytes:
    """Bytes that were written, as ranges that do not touch."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, begin: int, end: int) -> None:
        rest = [r for r in self._ranges if r[1] < begin or r[0] > end]
        met = [r for r in self._ranges if not (r[1] < begin or r[0] > end)]
        merged = min([begin, *(r[0] for r in met)]), max([end, *(r[1] for r in met)])
        self._ranges = sorted([*rest, merged])

    def gap(self, begin: int, end: int) -> int | None:
        """The first of these bytes that was not written, None where all were."""
        for low, high in self._ranges:
            if low <= begin < high:
                begin = high
        return begin if begin < end else None


def _overlap(a: Access, b: Access) -> bool:
    p, q = a.pointer, b.pointer
    if (p.where, p.index) != (q.where, q.index):
        return False
    return p.offset < _end(b) and q.offset < _end(a)


def _end(a: Access) -> int:
    return a.pointer.offset + a.size


def _shown(p: Pointer) -> str:
    number = f" {p.index}" if p.where in ("weight", "state") else ""
    return f"{p.where}{number}{f'+{p.offset}' if p.offset else ''}"
