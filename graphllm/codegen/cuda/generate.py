"""Prints a lowered module as CUDA C over the files in ``codegen/kernels/cuda``, and says how its kernels are launched.

Every distinct kernel is a translation unit of its own: equal layers, and steps of other sizes where they can, share it
and differ in the addresses they pass. A kernel of the IR is one launch or two (rows of activations are staged first
where a product has many); small kernels at one place that do not touch each other's memory are one launch together.

The IR may come from a hostile file. What of it reaches the text as code is names that are identifiers and numbers;
everything else stands in comments of printable ASCII.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Final, TypeAlias

from graphllm.codegen.cuda.attention import write_attention
from graphllm.codegen.cuda.experts import write_expert_linear
from graphllm.codegen.cuda.linear import write_product
from graphllm.codegen.cuda.part import Part
from graphllm.codegen.cuda.target import ROOM, chunks_of
from graphllm.codegen.fits import fits_experts
from graphllm.codegen.layout import Layouts
from graphllm.codegen.lone import write_kernel
from graphllm.codegen.product import PRODUCTS
from graphllm.codegen.product_reader import product_of
from graphllm.codegen.text import KernelText, live_values, printable, row_count, wrapped
from graphllm.errors import PlanError
from graphllm.ir.core import Function, Module, Operation, State, Value, Weight
from graphllm.ir.opdef import lookup
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.ir.printer import print_operation
from graphllm.plan.launch import (
    CHOICE_WORDS,
    HEADER_WORDS,
    ROW_WORDS,
    Access,
    Kernel,
    Launch,
    Pointer,
    Program,
    Stream,
)

LONE_THREADS: Final = 256
LONE_HEADER: Final = "lone.cuh"
LONE_SHARED: Final = 128  # BLOCK_ROOM of team.cuh, in bytes
CHOICE_THREADS, CHOICE_BLOCKS = 512, 64  # of choose.cuh
_CHOICE_SHARED: Final = 8 * (256 + CHOICE_THREADS // 32 + 4)
_CHOOSING: Final = 512  # blocks that choose the tokens of a step, about: as many as a large GPU has room for
_COUNTS_AT: Final = 1024  # a multiple of so many bytes
_ROW_THREADS: Final = 1024  # blocks of a lone kernel at most


_NewText: TypeAlias = Callable[[], KernelText]


@dataclass(slots=True)
class _Unit:
    """All kernels while they are written.

    ``counts``: bytes into the memory of kernels where counters begin, which each launch leaves as it finds them, zero;
    what blocks that choose tell each other comes first.
    """

    weights: dict[str, int]
    states: dict[str, int]
    counts: int
    kernels: dict[tuple[str, ...], str] = field(default_factory=dict[tuple[str, ...], str])  # text -> name
    texts: dict[str, Kernel] = field(default_factory=dict[str, Kernel])
    memory: int = 0

    def name(self, stem: str, key: tuple[str, ...]) -> tuple[str, bool]:
        """The name of the kernel with this text, and whether it is new."""
        known = key in self.kernels
        if not known:
            self.kernels[key] = f"{stem}_{1 + sum(n.rpartition('_')[0] == stem for n in self.kernels.values())}"
        return self.kernels[key], not known

    def pointer(self, root: Value) -> Pointer:
        if isinstance(root, Weight):
            return Pointer("weight", self.weights[root.name])
        if isinstance(root, State):
            return Pointer("state", self.states[root.name])
        if root.arena is None:
            raise PlanError(f"{root.ref}: has no place in the arena")
        return Pointer("arena", 0, root.arena)


def weight_names(module: Module) -> list[str]:
    """Stored weights in the order of their numbers."""
    return [w.name for w in module.stored_weights()]


def generate(module: Module) -> Program:
    """The kernels of a lowered module and the launches of its functions.

    Raises:
        PlanError: an operation, type or memory the cuda target has no code for.
    """
    names = weight_names(module)
    functions = module.functions.values()
    told = max((_told_bytes(*v.type.shape) for f in functions if (v := _logits(f)) is not None), default=0)
    counts = -(-told // _COUNTS_AT) * _COUNTS_AT
    unit = _Unit({n: i for i, n in enumerate(names)}, {n: i for i, n in enumerate(module.states)}, counts)
    streams = {f.name: _stream(unit, f) for f in functions}
    arena = max((f.arena or 0 for f in functions), default=0)
    return Program(unit.texts, streams, tuple(names), tuple(module.states), arena, unit.memory)


def _stream(unit: _Unit, function: Function) -> Stream:
    if function.arena is None:
        raise PlanError(f"func @{function.name}: its memory was not planned; run plan-memory first")
    if not f"step_{function.name}".isidentifier() or not function.name.isascii():
        raise PlanError(f"func @{function.name}: the cuda target takes names of A-Z a-z 0-9 _")
    rows = row_count(function)
    layouts, live = Layouts(function), live_values(function, rows)

    def new_text() -> KernelText:
        return KernelText("cuda", function, layouts, live, rows)

    launches: list[Launch] = []
    together: list[tuple[int, Part]] = []  # lone kernels that may be one launch
    for i, op in enumerate(function.ops):
        for part in _parts(op, new_text):
            if part.lone and all(_apart(part, other) for _, other in together):
                together.append((i, part))
                continue
            launches += _launches(unit, function, together)
            together = [(i, part)] if part.lone else []
            launches += [] if part.lone else [_launch(unit, function, i, part)]
    launches += _launches(unit, function, together)
    most = max((launch.grid[1] for launch in launches if launch.chunked), default=1)
    chunk = next((_keys(op, rows) for op in function.walk() if op.name in ATTENTION), 0)
    logits, shape = 0, (0, 0)
    choice: tuple[Launch, ...] = ()
    if function.results and (place := function.results[0].arena) is not None:
        logits, shape = place, (function.results[0].type.shape[0], function.results[0].type.shape[-1])
        if (chosen := _logits(function)) is not None:
            choice = (_choice(unit, chosen),)
    buckets = [1]
    while buckets[-1] < most:
        buckets.append(min(2 * buckets[-1], most))
    return Stream(function.name, rows, tuple(launches), choice, chunk, tuple(buckets), logits, shape)


def _keys(op: Operation, rows: int) -> int:
    return chunks_of(rows, op.operands[1].type.shape[2]).keys


def _parts(op: Operation, new_text: _NewText) -> list[Part]:
    """The launches of a kernel; none for one that computes nothing."""
    body = op.body.ops if op.body is not None else (op,)
    if any(o.name in PRODUCTS for o in body):
        product = product_of(body, op.results)
        if product is None:
            what = f"kernel giving {op.results[0].ref}"
            raise PlanError(f"{what}: the cuda target has no code for these operations together")
        return write_product(product, new_text)
    text = new_text()
    if fits_experts(body, op.results):
        return [write_expert_linear(body, text)]
    attention: list[Part] = []

    def attend(op: Operation, text: KernelText) -> None:
        attention.append(write_attention(op, text))

    text.line("wait_for_producers();")
    stem = write_kernel(body, op.results, text, dict.fromkeys(ATTENTION, attend))
    if attention:
        text.lines.pop(0)  # waits by itself
        return attention
    if not stem:
        return []
    blocks = min(_ROW_THREADS, max(_units(o) for o in body))
    return [Part(stem, text, (blocks, 1), LONE_THREADS, LONE_SHARED, LONE_HEADER, lone=True)]


def _units(op: Operation) -> int:
    """Rows that a lone operation has to compute, at most."""
    if lookup(op.name).updates is not None:
        return op.operands[1].type.shape[0]
    shape = op.results[0].type.shape
    return prod(shape[:1] if op.name == "rotation" else shape[:-1])


def _apart(a: Part, b: Part) -> bool:
    """Whether two kernels can run at once."""
    return not any(
        (p.written or q.written) and _meet(p.root, q.root) for p in a.text.parameters for q in b.text.parameters
    )


def _meet(a: Value, b: Value) -> bool:
    if isinstance(a, Weight | State) or isinstance(b, Weight | State):
        return a is b
    assert a.arena is not None
    assert b.arena is not None
    return a.arena < b.arena + b.type.bytes and b.arena < a.arena + a.type.bytes


def _launches(unit: _Unit, function: Function, together: Sequence[tuple[int, Part]]) -> list[Launch]:
    """Lone kernels as one launch: along y, each has blocks of its own."""
    if len(together) < 2:
        return [_launch(unit, function, i, part) for i, part in together]
    parts = [part for _, part in together]
    ir = [line for i, _ in together for line in print_operation(function.ops[i], indent="")]
    stem = "_".join(part.stem for part in parts)
    inner: list[str] = []
    calls: list[str] = []
    declared: list[str] = []
    for i, part in enumerate(parts):
        inner.append(wrapped(f"static __device__ void {part.stem}_{i}(", ["const Step& step", *part.declared], ") {"))
        inner += ["    using namespace by_block;", *part.text.lines, "}", ""]
        given = [f"{p.name}_{i}" for p in part.text.parameters]
        declared += [f"{p.declared}_{i}" for p in part.text.parameters]
        calls.append(wrapped(f"    if (blockIdx.y == {i}) {part.stem}_{i}(", ["step", *given, "words"], ");"))
    declared.append("const int* words")
    key = ("\n".join(inner), "\n".join(calls), ", ".join(declared))
    name, new = unit.name(stem, key)
    if new:
        head = wrapped(_head(name, LONE_THREADS), declared, ") {")
        body = [f"namespace {name}_parts {{", "", *inner, "}", "", head, f"    using namespace {name}_parts;"]
        body += ["    const Step step(words, blockIdx.x, gridDim.x);", "    let_consumers_start();", *calls, "}"]
        unit.texts[name] = _kernel(name, LONE_HEADER, ir, body)
    pointers = tuple(unit.pointer(p.root) for part in parts for p in part.text.parameters)
    accesses = tuple(a for i, part in together for a in _accesses(unit, function, function.ops[i], part))
    what = ", ".join(part.stem for part in parts)
    arguments = (*pointers, Pointer("step"))
    grid = max(part.grid[0] for part in parts), len(parts)
    return [Launch(name, grid, LONE_THREADS, LONE_SHARED, arguments, accesses, what=what, op=together[0][0])]


def _launch(unit: _Unit, function: Function, index: int, part: Part) -> Launch:
    op, text = function.ops[index], part.text
    if part.shared > ROOM:
        raise PlanError(
            f"kernel giving {op.results[0].ref}: needs {part.shared} bytes of shared memory; expected at most {ROOM}"
        )
    lines = list(text.lines)
    if part.lone:
        lines.insert(0, "    let_consumers_start();")
    key = (", ".join(part.declared), part.header, str(part.block), str(part.resident), *lines)
    name, new = unit.name(part.stem, key)
    if new:
        team = "by_block" if part.lone else "by_warp"
        body = [
            wrapped(_head(name, part.block, part.resident), part.declared, ") {"),
            f"    using namespace {team};",
            *([] if part.lone else ["    GRAPHLLM_SHARED(room);"]),
            "    const Step step(words, blockIdx.x, gridDim.x);",
            *lines,
            "}",
        ]
        unit.texts[name] = _kernel(name, part.header, print_operation(op, indent=""), body)
    arguments = [unit.pointer(p.root) for p in text.parameters]
    accesses = _accesses(unit, function, op, part)
    if part.scratch:
        assert text.shared is not None
        arguments.append(Pointer("arena", 0, text.shared[0]))
    if part.counts:
        arguments.append(Pointer("memory", 0, unit.counts))
        unit.memory = max(unit.memory, unit.counts + part.counts)
    arguments.append(Pointer("step"))
    return Launch(
        name,
        part.grid,
        part.block,
        part.shared,
        tuple(arguments),
        accesses,
        numbers=tuple(text.numbers.values()),
        chunked=part.chunked,
        cached=part.cached,
        what=part.stem,
        op=index,
    )


def _accesses(unit: _Unit, function: Function, op: Operation, part: Part) -> tuple[Access, ...]:
    body = op.body.ops if op.body is not None else (op,)
    gathered = {id(v): o.result.type for o in body if o.name == "embed" for v in o.operands[1:]}
    written = {id(v): o.operands[1].type for o in body if o.name == "kv_write" for v in (o.operands[0], o.result)}
    out: list[Access] = []
    for p in part.text.parameters:
        root, moved = p.root, part.moved.get(id(p.root), p.root.type.bytes)
        if id(root) in gathered:
            moved = gathered[id(root)].bytes
        elif isinstance(root, State):  # what is read follows from the positions: ``cached``
            row = written.get(id(root))
            moved = row.numel * root.type.numpy.itemsize if row is not None and p.written else 0
        out.append(Access(unit.pointer(root), root.type.bytes, moved, p.written, id(root) in part.early))
    if part.scratch:
        assert part.text.shared is not None
        place, size = part.text.shared
        stages = part.stem.startswith("stage_")
        out.append(Access(Pointer("arena", 0, place), size, 0 if part.counts else size, stages or bool(part.counts)))
    if part.counts:
        out.append(Access(Pointer("memory", 0, unit.counts), part.counts, 0, True))
    given = 0 if part.stem.startswith("stage_") else sum(v.type.bytes for v in function.inputs if v in op.operands)
    out.append(Access(Pointer("step"), 4 * (HEADER_WORDS + ROW_WORDS * row_count(function)), given))
    return tuple(out)


def _logits(function: Function) -> Value | None:
    """The logits [T,V] of a function whose rows are sequences of their own: each may choose its next token."""
    value = function.results[0] if function.results else None
    if value is None or function.rows != "independent" or value.arena is None:
        return None
    shape = value.type.shape
    return value if len(shape) == 2 and shape[0] == row_count(function) and value.type.dtype == "f32" else None


def _choice_blocks(rows: int, vocab: int) -> int:
    """Blocks that share a row."""
    return min(CHOICE_BLOCKS, -(-vocab // CHOICE_THREADS), max(1, _CHOOSING // rows))


def _told_bytes(rows: int, vocab: int) -> int:
    """What blocks that choose tell each other: a place for each."""
    return 8 * rows * _choice_blocks(rows, vocab)


def _choice(unit: _Unit, logits: Value) -> Launch:
    rows, vocab = logits.type.shape
    lines = ["    choose(logits, vocab, rows, words, told, counts, room);"]
    declared = ["const float* logits", "unsigned long long* told", "unsigned* counts", "int* words"]
    declared += ["int vocab", "int rows"]
    name, new = unit.name("choose", ("choose", *lines))
    if new:
        head = wrapped(_head(name, CHOICE_THREADS), declared, ") {")
        body = [head, "    GRAPHLLM_SHARED(room);", *lines, "}"]
        unit.texts[name] = _kernel(name, "choose.cuh", [f"the next token, from {logits.ref} : {logits.type}"], body)
    place, step = unit.pointer(logits), Pointer("step")
    told, counts = Pointer("memory"), Pointer("memory", 0, unit.counts)
    unit.memory = max(unit.memory, unit.counts + 4 * rows)
    accesses = (
        Access(place, logits.type.bytes, logits.type.bytes),
        Access(told, _told_bytes(rows, vocab), 0, True),
        Access(counts, 4 * rows, 0, True),
        Access(step, 4 * (HEADER_WORDS + (ROW_WORDS + CHOICE_WORDS) * rows), 0, True),
    )
    grid, pointers = (_choice_blocks(rows, vocab), rows), (place, told, counts, step)
    return Launch(name, grid, CHOICE_THREADS, _CHOICE_SHARED, pointers, accesses, (vocab, rows), what="choose")


def _head(name: str, block: int, resident: int = 0) -> str:
    bounds = f"{block}, {resident}" if resident else str(block)
    return f'extern "C" __global__ void __launch_bounds__({bounds}) {name}('


def _kernel(name: str, header: str, ir: Sequence[str], body: Sequence[str]) -> Kernel:
    comment = [f"// {printable(line)}" for line in ir]
    text = "\n".join([f'#include "{header}"', "", "using namespace graphllm;", "", *comment, *body, ""])
    return Kernel(name, text, "\n".join(ir))
