"""Every kernel the cuda generator prints, run alone on the simulator against its own body in float64.

See ``tests.kernel_checks``. Threads and blocks run in an order drawn from a seed; what is not yet written is NaN.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from graphllm.codegen.cuda import attention, linear, target
from graphllm.codegen.cuda import generate as generator
from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.compiler.native.simulated import HEADERS
from graphllm.errors import PlanError
from graphllm.ir import ops
from graphllm.ir.parser import parse_module
from graphllm.ir.printer import print_module
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering
from graphllm.runtime.dry_run import dry_run
from tests.cuda_open_device import OpenDevice, cuda_lowered, needs_a_compiler
from tests.kernel_checks import FEWER_KERNELS, check, distinct_kernels, lone_module, own_states
from tests.lone_kernels import EXPERTS, LONE, Lone
from tests.lowered_models import Storage
from tests.model_zoo import ZOO

__all__ = ["needs_a_compiler"]


@pytest.mark.parametrize(("name", "storage", "kv_dtype"), FEWER_KERNELS)
def test_every_kernel_of_a_model(name: str, storage: Storage, kv_dtype: str) -> None:
    model = cuda_lowered(name, storage, kv_dtype=kv_dtype)
    functions = {f.name: f for f in distinct_kernels(model.module)}
    assert len(functions) >= 8 * 6
    module = replace(model.module, functions=functions)
    device = OpenDevice(module, model.weights, seed=3)
    for seed, function in enumerate(functions.values()):
        check(device, module, function, model.weights, seed)


def test_lone_operations() -> None:
    module, arrays = lone_module(lowering(CUDA), rows=(1, 5, 31), cases=LONE | EXPERTS)
    device = OpenDevice(module, arrays, seed=5)
    for seed, function in enumerate(module.functions.values()):
        check(device, own_states(module, function), function, arrays, seed)


# Few columns and long rows: warps share a row of weights.
LONG: dict[str, Callable[[Lone], Any]] = {
    "f32": lambda s: ops.linear(s.x(s.t, 896), s.weight(20, 896)),
    "normed f32 with a tail": lambda s: ops.linear(
        ops.rmsnorm(s.x(s.t, 1030), s.weight(1030, name="gain"), eps=1e-5), s.weight(9, 1030)
    ),
    "bf16": lambda s: ops.linear(s.x(s.t, 1100), ops.cast(s.weight(20, 1100, dtype="bf16"), dtype="f32")),
    "int8": lambda s: ops.linear(
        s.x(s.t, 2112), ops.dequantize(s.weight(20, 2112, dtype="i8"), s.weight(20, 33, name="scale"), group=64)
    ),
}


def test_warps_that_share_a_row() -> None:
    module, arrays = lone_module(lowering(CUDA), rows=(1, 3), cases=LONG)
    device = OpenDevice(module, arrays, seed=4)
    calls = re.findall(r"linear_few<1, 8, 1, 2, 2, \d>", "".join(k.text for k in device.program.kernels.values()))
    assert len(calls) == len(LONG)
    for seed, function in enumerate(module.functions.values()):
        check(device, own_states(module, function), function, arrays, seed)


@pytest.mark.parametrize(("storage", "kv_dtype"), [("f32", "f16"), ("bf16", "i8")])
def test_the_order_of_threads_changes_nothing(storage: Storage, kv_dtype: str) -> None:
    model = cuda_lowered("everything", storage, kv_dtype=kv_dtype, context=300)
    functions = {name: model.module.functions[name] for name in ("decode_4", "prefill_8")}
    module = replace(model.module, functions=functions)
    found: set[bytes] = set()
    for seed in (1, 2, 3):
        device = OpenDevice(module, model.weights, seed=seed)
        rng = np.random.default_rng(0)
        for state in device.states.values():
            state[...] = rng.integers(-9, 10, state.shape)
        device.step("decode_4", {"ids": [1, 2, 3], "pos": [290, 4, 131], "slot": [2, 0, 1]})
        device.step("prefill_8", {"ids": [5, 6, 7], "pos": [17, 18, 19], "slot": [3, 3, 3], "rows": [2]})
        kept = [state.tobytes() for state in device.states.values()]
        stream = device.program.streams["prefill_8"]
        logits = device.arena[stream.logits :][: 4 * stream.logits_shape[1]].tobytes()
        found.add(b"".join([*kept, logits]))
    assert len(found) == 1


@pytest.mark.parametrize("name", ZOO)
def test_decoders_are_fused_to_the_last_operation(name: str) -> None:
    """Five launches a layer, and two for all the rest of a step, and one to choose a token."""
    cases: tuple[tuple[Storage, str], ...] = (("f32", "f32"), ("bf16", "f16"), ("int8", "f32"), ("f32", "i8"))
    storage, kv_dtype = cases[list(ZOO).index(name) % len(cases)]
    module = cuda_lowered(name, storage, kv_dtype=kv_dtype).module
    decode = generate(module).streams["decode"]
    assert len(decode.launches) + len(decode.choice) == 5 * ZOO[name].layers + 3
    dry_run(module)


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        ("%h = embed %ids, @h : f16[1,6]\n %y = silu %h : f16[1,6]", "silu giving %y: the cuda target computes in"),
        ('%a = embed %ids, @h : f16[1,6]\n %y = cast %a {dtype="bf16"} : bf16[1,6]', "cast giving %y"),
        ('%y = rope_frequencies {kind="default", pairs=3, theta=10000.0} : f32[3]', "rope_frequencies giving %y"),
        ("%y = embed %other, @f : f32[1,6]", "%other: the cuda target takes row numbers only from"),
    ],
)
def test_what_there_is_no_code_for_is_refused(body: str, refused: str) -> None:
    text = (
        "weight @h : f16[3,6] weight @f : f32[3,6]\n"
        "func @f(%ids: i32[1], %pos: i32[1], %slot: i32[1], %other: i32[1]) {\n"
        f" {body}\n return %y\n}}"
    )
    module, _ = run_passes(parse_module(text), lowering(CUDA))
    with pytest.raises(PlanError, match=re.escape(refused)):
        generate(module)


def test_names_from_outside_stay_in_comments() -> None:
    text = print_module(cuda_lowered("everything", "int8").module)
    evil = re.sub(r"([@%])(?!ids|pos|slot|rows)(\w)", r"\1evil_\2", text).replace("func @evil_", "func @")
    lines = [line for k in generate(parse_module(evil)).kernels.values() for line in k.text.splitlines()]
    comments = [line for line in lines if line.startswith("//")]
    assert "evil" in "\n".join(comments)
    assert "\\" not in "\n".join(comments)  # it would join the next line to the comment
    assert "evil" not in "\n".join(line for line in lines if not line.startswith("//"))


def test_the_program_follows_from_the_module_alone() -> None:
    first, again = (generate(cuda_lowered("everything", seed=0).module) for _ in range(2))
    assert first == again


def test_equal_layers_share_their_kernels() -> None:
    few, many = (generate(cuda_lowered(name).module) for name in ("one_layer", "plain"))
    assert few.kernels.keys() == many.kernels.keys()


def number_in(header: str, name: str) -> int:
    found = re.search(rf"constexpr int (?:\w+ = \d+, )?{name} = (\d+)", (HEADERS / header).read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def test_numbers_that_files_and_planner_share() -> None:
    assert number_in("few.cuh", "WARPS") == linear.WARPS
    assert number_in("team.cuh", "BLOCK_ROOM") == linear.ROOM_FLOATS
    assert (number_in("tiles.cuh", "TILE_T"), number_in("tiles.cuh", "TILE_K")) == (linear.TILE_T, linear.TILE_K)
    assert number_in("attention.cuh", "ATTENTION_WARPS") == attention.WARPS
    assert number_in("attention.cuh", "KEYS") == attention.KEYS
    assert number_in("attention_many.cuh", "MANY_THREADS") == attention.MANY_THREADS
    assert number_in("choose.cuh", "CHOICE_THREADS") == generator.CHOICE_THREADS
    assert number_in("choose.cuh", "CHOICE_BLOCKS") == generator.CHOICE_BLOCKS
    assert target.STAGED < target.ROOM
