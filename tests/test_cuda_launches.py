"""Launch plans: the validator on what we generate, and on what it must refuse; bytes and launches, pinned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from graphllm.cli import main
from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.launches.bytes_moved import kernels_moved, step_moved
from graphllm.compiler.launches.report import balance, resident
from graphllm.compiler.launches.validate import check_launches, problems
from graphllm.compiler.launches.waits import waiting, without_wait
from graphllm.compiler.nvrtc.build import headers
from graphllm.compiler.nvrtc.cubin import Resources
from graphllm.errors import PlanError
from graphllm.ir.types import DType
from graphllm.plan.launch import Access, Kernel, Launch, Pointer, Program, Stream
from graphllm.runtime.cuda.arch import ARCHS
from graphllm.runtime.cuda.places import Sizes
from tests.cuda_programs import needs_nvrtc
from tests.lowered_models import Storage, lowered
from tests.model_zoo import ZOO
from tests.reference_shapes import CASES, Stored, reference

Edit = Callable[[Stream], Stream]


def found(program: Program, sizes: Sizes, archs: tuple[str, ...] = ARCHS, **registers: int) -> list[str]:
    return list(problems(program, sizes, headers().values(), archs, registers))


@pytest.mark.parametrize("name", ZOO)
def test_what_is_generated_is_in_order(name: str) -> None:
    kinds: list[tuple[Storage, DType]] = [("bf16", "f16")]
    if name in ("plain", "odd_sizes"):
        kinds += [("f32", "f32"), ("int8", "i8")]
    for storage, kv in kinds:
        module = lowered(name, storage, kv_dtype=kv, target=CUDA).module
        program = generate(module)
        assert found(program, Sizes.of(program, module)) == []


@pytest.fixture(scope="module")
def good() -> tuple[Program, Sizes]:
    module = lowered("plain", "bf16", kv_dtype="f16", target=CUDA).module
    program = generate(module)
    return program, Sizes.of(program, module)


def with_stream(program: Program, edit: Edit) -> Program:
    return replace(program, streams={**program.streams, "decode": edit(program.streams["decode"])})


def with_launch(at: int, **changes: Any) -> Edit:
    def edit(stream: Stream) -> Stream:
        launches = list(stream.launches)
        launches[at] = replace(launches[at], **changes)
        return replace(stream, launches=tuple(launches))

    return edit


def with_access(at: int, which: Callable[[Access], bool], **changes: Any) -> Edit:
    """The first access of a launch that ``which`` picks, changed."""

    def edit(stream: Stream) -> Stream:
        accesses = list(stream.launches[at].accesses)
        i = next(i for i, a in enumerate(accesses) if which(a))
        accesses[i] = replace(accesses[i], **changes)
        return with_launch(at, accesses=tuple(accesses))(stream)

    return edit


def arena(written: bool) -> Callable[[Access], bool]:
    return lambda a: a.pointer.where == "arena" and a.written == written


FAULTS: dict[str, tuple[Edit, str]] = {
    "a launch left out": (
        lambda s: replace(s, launches=s.launches[:3] + s.launches[4:]),
        "nobody reads what it writes",
    ),
    "two launches in the wrong order": (
        lambda s: replace(s, launches=(*s.launches[:1], s.launches[2], s.launches[1], *s.launches[3:])),
        "of the arena, which no launch ahead of it writes",
    ),
    "the last launch left out": (lambda s: replace(s, launches=s.launches[:-1]), "nobody reads what it writes"),
    "logits elsewhere": (lambda s: replace(s, logits=1 << 20), "logits: byte 1048576 of the arena is written by no"),
    "activations read early": (with_access(3, arena(False), early=True), "touched before it waits"),
    "a cache read early": (
        with_access(2, lambda a: a.pointer.where == "state", early=True),
        "touched before it waits; a launch of the stream writes it",
    ),
    "written early": (with_access(3, arena(True), early=True), "touched before it waits"),
    "a result over its own input": (
        lambda s: with_access(
            4, arena(True), pointer=Pointer("arena", 0, s.launches[4].accesses[1].pointer.offset + 8)
        )(s),
        "reads and writes overlapping bytes",
    ),
    "a result too long for its place": (with_access(1, arena(True), size=1 << 20), "bytes up to"),
    "a weight that there is not": (
        with_access(1, lambda a: a.pointer.where == "weight", pointer=Pointer("weight", 10**6)),
        "weight 1000000: there is none",
    ),
    "a weight written": (with_access(1, lambda a: a.pointer.where == "weight", written=True), "written"),
    "an argument nobody told of": (
        lambda s: with_launch(1, accesses=s.launches[1].accesses[1:])(s),
        "an argument that it does not say it touches",
    ),
    "a block of odd size": (with_launch(1, block=100), "100 threads; expected warps of 32"),
    "a block too large": (with_launch(1, block=2048), "2048 threads"),
    "no blocks": (with_launch(1, grid=(0, 1)), "a grid of 0 x 1 blocks"),
    "a grid too tall": (with_launch(1, grid=(1, 1 << 16)), "a grid of 1 x 65536 blocks"),
    "shared memory that sm_75 lacks": (with_launch(1, shared=80 << 10), "sm_75 has 65536"),
    "an unknown kernel": (with_launch(1, kernel="none"), "no such kernel"),
    "graphs for too few chunks": (
        lambda s: replace(with_launch(2, chunked=True)(s), buckets=(1,), chunk=8),
        "expected 48 positions to fit",
    ),
    "a token for one row of two": (
        lambda s: replace(s, choice=(replace(s.choice[0], grid=(s.choice[0].grid[0], 2)),)),
        "a choice of 2 tokens from 1 rows of logits; expected 1 of each",
    ),
    "a choice from other bytes": (
        lambda s: replace(s, choice=(replace(s.choice[0], accesses=s.choice[0].accesses[1:]),)),
        "a choice that does not say it reads all",
    ),
    "a choice that nobody hears of": (
        lambda s: replace(s, choice=(replace(s.choice[0], accesses=s.choice[0].accesses[:-1]),)),
        "a choice that does not say it writes the words of the step",
    ),
    "graphs in no order": (lambda s: replace(s, buckets=(2, 1)), "expected rising numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, good: tuple[Program, Sizes]) -> None:
    program, sizes = good
    edit, said = FAULTS[fault]
    broken = with_stream(program, edit)
    assert any(said in problem for problem in found(broken, sizes)), found(broken, sizes)
    with pytest.raises(PlanError, match="func @decode"):
        check_launches(broken, sizes, headers().values())


def test_a_kernel_that_does_not_wait_is_found(good: tuple[Program, Sizes]) -> None:
    program, sizes = good
    name = "rotation_embed_1"
    kernel = program.kernels[name]
    assert "wait_for_producers();" in kernel.text
    silent = Kernel(name, kernel.text.replace("wait_for_producers();", "/* wait_for_producers(); */"), kernel.ir)
    said = f"kernel {name}: never waits for the launches ahead of it"
    assert said in found(replace(program, kernels={**program.kernels, name: silent}), sizes)
    # nor one whose header has forgotten it
    texts = {n: t.replace("wait_for_producers();", "") for n, t in headers().items()}
    hushed = without_wait(program.kernels, texts.values())
    assert set(hushed) == {n for n, k in program.kernels.items() if "wait_for_producers();" not in k.text}
    assert hushed
    assert "linear_few" in waiting(headers().values())


def test_registers_of_a_block_have_a_limit(good: tuple[Program, Sizes]) -> None:
    program, sizes = good
    launch = program.streams["decode"].launches[1]
    most = 65536 // launch.block
    assert not found(program, sizes, **{launch.kernel: most})
    assert any("registers a block" in p for p in found(program, sizes, **{launch.kernel: most + 1}))


@pytest.mark.parametrize(("name", "stored"), CASES)
def test_launches_and_bytes_of_the_reference_shapes(name: str, stored: Stored) -> None:
    model = reference(name, stored)
    stream, function = model.program.streams["decode"], model.module.functions["decode"]
    assert len(stream.launches) == 5 * model.config.layers + 2
    assert len(stream.launches) + len(stream.choice) <= 5 * model.config.layers + 3
    for positions in (0, 128, 2048):
        whole = step_moved(stream, function, positions)
        assert 1 <= whole.ratio <= 1.02
        each = kernels_moved(stream, function, positions)
        assert sum(m.moved for m in each.values()) == whole.moved
        assert all(m.floor <= m.moved <= 1.02 * m.floor for m in each.values())
    weights = sum(w.type.bytes for w in model.module.stored_weights())
    assert step_moved(stream, function, 0).moved < 1.01 * weights
    assert found(model.program, Sizes.of(model.program, model.module)) == []


@pytest.mark.parametrize("storage", ["f32", "bf16", "int8"])
def test_a_batch_takes_no_more_launches_than_a_row(storage: Storage) -> None:
    """And chooses its tokens by one of them."""
    module = lowered("plain", storage, kv_dtype="f16", target=CUDA).module
    streams = generate(module).streams
    assert {name for name, stream in streams.items() if stream.choice} == {"decode", "decode_2", "decode_4"}
    for name in ("decode", "decode_2", "decode_4"):
        assert len(streams[name].launches) + len(streams[name].choice) == 5 * ZOO["plain"].layers + 3


def test_a_weight_read_twice_shows(good: tuple[Program, Sizes]) -> None:
    program, _ = good
    module = lowered("plain", "bf16", kv_dtype="f16", target=CUDA).module
    stream = program.streams["decode"]
    doubled = replace(stream, launches=(*stream.launches, stream.launches[-1]))
    function = module.functions["decode"]
    assert step_moved(stream, function, 8).ratio <= 1.02 < step_moved(doubled, function, 8).ratio


def test_blocks_on_multiprocessors() -> None:
    launch = Launch("k", (100, 1), 256, 40_000, (), (), chunked=True)
    assert resident(launch, Resources(32, 0, 0, 0), "sm_75") == 1  # by shared memory
    assert resident(launch, Resources(32, 0, 0, 0), "sm_90") == 5
    assert resident(replace(launch, shared=0), Resources(32, 0, 0, 0), "sm_90") == 8  # by threads
    assert resident(replace(launch, shared=0), Resources(65, 0, 0, 0), "sm_90") == 3  # by registers
    assert resident(replace(launch, shared=0, block=32), Resources(16, 0, 0, 0), "sm_86") == 16  # by blocks
    even = balance(launch, Resources(32, 0, 0, 0), "sm_90", 132)
    assert (even.blocks, even.busiest) == (13200, 1.0)
    assert balance(launch, Resources(32, 0, 0, 0), "sm_90", 2).busiest == pytest.approx(2 * 132 / 200)


def test_the_command_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    needs_nvrtc()
    assert main(["show", "demo", "--resources", "sm_86"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("decode on sm_86: 32 launches and 1 to choose tokens, ")
    assert "of the floor of" in said[0]
    assert said[2].split()[:4] == ["kernel", "launches", "blocks", "threads"]
    assert any(line.startswith("attention_1 ") for line in said)
    assert main(["show", "demo", "--source", "cuda", "--resources", "sm_86"]) == 0
    table, _, code = capsys.readouterr().out.partition("\n\n// ")
    assert table.splitlines() == said
    assert "attention_1(" in code
    assert main(["show", "demo", "--source", "cpu", "--resources"]) == 2
    assert main(["show", "demo", "--memory", "--resources"]) == 2
    assert main(["show", "demo", "--resources", "sm_1"]) == 2
    assert main(["show", "demo", "--resources", "--function", "none"]) == 2
