"""Every kernel the cpu generator prints, run alone on fresh random inputs against its own body in float64.

See ``tests.kernel_checks``. All kernels of a model are functions of one translation unit.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu import target
from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.target import CPU
from graphllm.compiler.link import check_kernels
from graphllm.compiler.native import build
from graphllm.compiler.native.isa import cpu_features
from graphllm.errors import GraphLLMError, PlanError
from graphllm.ir.core import Module
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.ir.verifier import verify
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.dry_run import dry_run
from tests.cpu_models import cpu_device, cpu_lowered, quick_builds, shipped_builds
from tests.kernel_checks import KERNELS, check, distinct_kernels, lone_module, own_states
from tests.lone_kernels import EXPERTS, LONE, LONG
from tests.lowered_models import Storage
from tests.model_zoo import ZOO

__all__ = ["quick_builds", "shipped_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")
Array = NDArray[Any]


@pytest.mark.parametrize(("name", "storage", "kv_dtype"), KERNELS)
def test_every_kernel_of_a_model(name: str, storage: Storage, kv_dtype: str) -> None:
    model = cpu_lowered(name, storage, kv_dtype=kv_dtype)
    functions = {f.name: f for f in distinct_kernels(model.module)}
    assert len(functions) >= 8 * 6
    module = replace(model.module, functions=functions)
    device = cpu_device(module, model.weights, threads=2)
    for seed, function in enumerate(functions.values()):
        check(device, module, function, model.weights, seed)


@pytest.mark.usefixtures("shipped_builds")
def test_every_kernel_as_it_is_shipped() -> None:
    test_every_kernel_of_a_model("everything", "int8", "f16")


@pytest.mark.parametrize("name", ZOO)
def test_decoders_are_fused_to_the_last_operation(name: str) -> None:
    """Five kernels a layer, and embedding, rotation and classifier: nothing of a decoder is left by itself."""
    cases: tuple[tuple[Storage, str], ...] = (("f32", "f32"), ("bf16", "f16"), ("int8", "f32"), ("f32", "i8"))
    for storage, kv_dtype in cases:
        module = cpu_lowered(name, storage, kv_dtype=kv_dtype).module
        for function in module.functions.values():
            assert len(function.ops) == 5 * ZOO[name].layers + 3
        dry_run(module)  # reads what was written, writes over nothing that is still read


def test_lone_operations() -> None:
    _check_all(*lone_module(lowering(CPU), cases=LONE | EXPERTS))


@pytest.mark.parametrize("isa", ["native", "portable"])
def test_products_of_any_number_of_rows(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number up to the last that goes one way, then around whole stacks of rows that go the other."""
    monkeypatch.setenv("GRAPHLLM_ISA", isa)
    rows = (3, 4, 6, 7, target.FEW, target.FEW + 1, target.STACK, target.STACK + 1, 3 * target.STACK - 1, 40)
    names = (
        "linear",
        *("linear bf16", "linear bf16 odd rows"),
        "linear f16",
        *("linear int8", "linear int8 deep", "linear int8 odd rows", "linear flat int8"),
        *("linear_int8", "linear_int8 odd rows", "linear_int8 odd groups"),
    )
    _check_all(*lone_module(lowering(CPU), rows=rows, cases={name: LONE[name] for name in names}))


@pytest.mark.parametrize("isa", ["native", "avx2", "portable"])
def test_halves_are_rounded_to_even(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a scale is 1 nothing is near: elements of rows that are to be int8 are exactly the interpreter's."""
    monkeypatch.setenv("GRAPHLLM_ISA", isa)
    if isa == "avx2" and "avx2" not in cpu_features().split():
        pytest.skip("this CPU has no AVX2")
    text = (
        "weight @table : f32[1,96]\nfunc @f(%ids: i32[1], %pos: i32[1], %slot: i32[1]) {\n"
        " %x = embed %ids, @table : f32[1,96]\n"
        " %q, %scale = quantize_rows %x {group=33} : i8[1,96], f32[1,3]\n return %scale, %q\n}"
    )
    module, _ = run_passes(parse_module(text), lowering(CPU))
    row = np.arange(-48, 48, dtype=np.float32) + np.float32(0.5)
    row[[0, 40, 90]] = 127, -127, 127
    row[[7, 50]] = 0, -0.0
    device = cpu_device(module, {"table": row[None]})
    device.step("f", {"ids": [0], "pos": [0], "slot": [0]})
    results = module.functions["f"].results  # the device takes the first one for logits, which are f32
    scale, q = (np.ndarray(v.type.shape, v.type.numpy, device.arena, v.arena or 0) for v in results)
    assert scale.tolist() == [[1, 1, 1]]
    assert q[0].tolist() == [round(x) for x in row.tolist()]


@pytest.mark.parametrize("isa", ["native", "avx2", "portable"])
def test_products_of_long_rows(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHLLM_ISA", isa)
    if isa == "avx2" and "avx2" not in cpu_features().split():
        pytest.skip("this CPU has no AVX2")
    _check_all(*lone_module(lowering(CPU), rows=(1, 2, 3, 5), cases=LONG))


def _check_all(module: Module, arrays: dict[str, Array]) -> None:
    device = cpu_device(module, arrays, threads=2)
    for seed, function in enumerate(module.functions.values()):
        check(device, own_states(module, function), function, arrays, seed)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        (
            "%h = embed %ids, @h : f16[1,6]\n %y = add %h, %h : f16[1,6]",
            "add giving %y: the cpu target computes in",
        ),
        ("%h = embed %ids, @h : f16[1,6]\n %y = silu %h : f16[1,6]", "silu giving %y: the cpu target computes in"),
        ('%a = embed %ids, @h : f16[1,6]\n %y = cast %a {dtype="bf16"} : bf16[1,6]', "cast giving %y"),
        ('%y = rope_frequencies {kind="default", pairs=3, theta=10000.0} : f32[3]', "rope_frequencies giving %y"),
        ("%y = embed %other, @f : f32[1,6]", "%other: the cpu target takes row numbers only from"),
        ("%y = kv_write @k, %v, %slot, %pos : f32[2,1,9,6]", "kv_write giving %y: its pos is %slot"),
    ],
)
def test_what_there_is_no_code_for_is_refused(body: str, refused: str) -> None:
    text = (
        "weight @h : f16[3,6] weight @f : f32[3,6] state @k : f32[2,1,9,6]\n"
        "func @f(%ids: i32[1], %pos: i32[1], %slot: i32[1], %other: i32[1]) {\n"
        " %x = embed %ids, @f : f32[1,6]\n %v = reshape %x {shape=[1,1,6]} : f32[1,1,6]\n"
        f" {body}\n return %x, @k = %y\n}}"
    )
    if "kv_write" not in body:
        text = text.replace("return %x, @k = %y", "return %y")
    module, _ = run_passes(parse_module(text), lowering(CPU))
    with pytest.raises(PlanError, match=re.escape(refused)):
        generate(module)


def test_names_from_outside_stay_in_comments() -> None:
    text = print_module(cpu_lowered("everything", "int8").module)
    evil = re.sub(r"([@%])(?!ids|pos|slot|rows)(\w)", r"\1evil_\2", text).replace("func @evil_", "func @")
    lines = generate(parse_module(evil)).splitlines()
    comments = [line for line in lines if line.startswith("//")]
    assert "evil" in "\n".join(comments)
    assert "\\" not in "\n".join(comments)  # it would join the next line to the comment
    assert "evil" not in "\n".join(line for line in lines if not line.startswith("//"))


def test_the_text_follows_from_the_module_alone() -> None:
    first, again = (generate(cpu_lowered("everything", seed=0).module) for _ in range(2))
    assert first == again


def test_mutated_modules_are_refused_in_words_or_give_text() -> None:
    """Lowered text of another's: names and kernels exchanged. What passes the verifier gives code or a PlanError."""
    source = print_module(cpu_lowered("one_layer", "int8").module)
    function = source[source.index("func @decode_4(") : source.index("func @prefill_8(")]
    head, lines, rng = source[: source.index("func @decode(")], function.splitlines(), random.Random(7)
    outcomes = {"refused before": 0, "refused": 0, "text": 0}
    for _ in range(1500):
        mutated = list(lines)
        for _ in range(rng.randint(1, 2)):
            i, j = rng.randrange(1, len(mutated) - 1), rng.randrange(1, len(mutated) - 1)
            names = re.findall(r"%[a-z0-9_.]+", mutated[i])
            match rng.randrange(4):
                case 0:  # a kernel holds less, and the next one more
                    del mutated[i]
                case 1:
                    mutated[i], mutated[j] = mutated[j], mutated[i]
                case 2 if names:  # other values are read
                    others = re.findall(r"%[a-z0-9_.]+", function)
                    mutated[i] = mutated[i].replace(names[-1], rng.choice(others))
                case _:
                    mutated[i] = re.sub(r"\d+", lambda found: str(rng.choice((found[0], 1, 2, 4, 8, 32))), mutated[i])
        try:
            module = parse_module(head + "\n".join(mutated))
            verify(module)
            check_kernels(module, "here", CPU)
        except GraphLLMError:
            outcomes["refused before"] += 1
            continue
        try:
            generate(module)
            outcomes["text"] += 1
        except PlanError:
            outcomes["refused"] += 1
    assert all(outcomes.values()), outcomes


@pytest.mark.parametrize(("header", "name"), [("attention.h", "CHUNK"), ("gemm_tile.h", "STACK"), ("linear.h", "FEW")])
def test_numbers_that_headers_and_planner_share(header: str, name: str) -> None:
    found = re.search(rf"constexpr int {name} = (\d+);", (build.HEADERS / header).read_text(encoding="utf-8"))
    assert found is not None
    assert int(found[1]) == getattr(target, name)
