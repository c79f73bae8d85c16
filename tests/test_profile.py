"""``profile``: every kernel of a step is timed, times lie within the step, nothing else about the step changes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import graphllm
from graphllm.cli import main
from graphllm.codegen.cpu.generate import generate as generate_cpu
from graphllm.codegen.cuda.generate import generate
from graphllm.codegen.cuda.target import CUDA
from graphllm.codegen.numpy.generate import generate as generate_numpy
from graphllm.compiler.launches.bytes_moved import moved
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.compiler.relower import lowered_for
from graphllm.ir.cost import kernel_bytes
from graphllm.measure import bandwidth
from graphllm.measure.profile.clocks import clock
from graphllm.measure.profile.cost import bytes_and_flops
from graphllm.measure.profile.parts import launches_of
from graphllm.measure.profile.run import What, profile
from graphllm.measure.profile.text import chrome_trace, profile_text
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.view.flame import flame_svg
from graphllm.view.profile_data import Profile, profile_from_json
from tests.cpu_models import quick_builds
from tests.lowered_models import lowered
from tests.small_plans import small_plan

__all__ = ["quick_builds"]


@pytest.fixture(autouse=True)
def little_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "BUFFER", 4 << 20)
    monkeypatch.setattr(bandwidth, "LEAST", 4 << 20)
    monkeypatch.setattr("graphllm.measure.profile.run.flop_rate", lambda: 1e9)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_plan(tmp_path_factory.mktemp("profile"), context=8, target="numpy")


def check(found: Profile, module: Any, function: str) -> None:
    """Every kernel once, in order, inside the step."""
    ops = module.functions[function].ops
    assert [k.index for k in found.kernels] == list(range(len(ops)))
    assert [k.name for k in found.kernels] == [op.results[0].name for op in ops]
    ends = [k.start_ns + k.ns for k in found.kernels]
    assert all(k.start_ns > 0 and k.ns >= 0 for k in found.kernels)
    assert max(ends) <= found.step_ns
    assert {s.kernel for s in found.spans} == {k.index for k in found.kernels}
    assert {s.thread for s in found.spans} == set(range(found.threads))
    assert found.outside_ns < found.step_ns


@pytest.mark.parametrize("function", ["decode", "prefill_8", "score_8"])
def test_numpy(plan: Path, function: str) -> None:
    model = graphllm.load(plan, device="numpy")
    found = profile(model, What(function, 0, 3), read_rate=1e9)
    check(found, model.lowered, function)
    assert profile_from_json(json.loads(json.dumps(found.as_json())), "p") == found


@pytest.mark.usefixtures("quick_builds")
def test_native_code(plan: Path) -> None:
    model = graphllm.load(plan, device="cpu")
    check(profile(model, What("decode", 3, 3), threads=2), model.lowered, "decode")


def test_a_simulated_gpu_is_timed_launch_by_launch(plan: Path) -> None:
    if compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    model = graphllm.load(plan, device="cuda-sim")
    device = model.engine.device
    assert isinstance(device, CudaDevice)
    for function in ("decode", "prefill_8"):
        found = profile(model, What(function, 0, 2), read_rate=1e9, flop_rate=1e9)
        stream = device.program.streams[function]
        assert [k.code for k in found.kernels] == [launch.kernel for launch in stream.launches]
        caches = 1  # of the one sequence, whose prompt's rows read it together
        assert [k.bytes for k in found.kernels] == [moved(x, found.rows, caches) for x in stream.launches]
        steps = model.lowered.functions[function].ops
        assert sorted(o for k in found.kernels for o in k.ops) == sorted(
            op.name for op in model.lowered.functions[function].walk() if op.body is None
        )
        assert sum(k.flops for k in found.kernels) == sum(bytes_and_flops(op, found.rows, 1)[1] for op in steps)
        assert all(a.start_ns + a.ns == b.start_ns for a, b in pairwise(found.kernels))
        assert 0 < sum(k.ns for k in found.kernels) < found.step_ns
        assert (found.read_rate, found.flop_rate, "simulator" in found.note) == (0, 0, True)
        assert "GB/s  roofline\n" in profile_text(found)
        assert profile_from_json(json.loads(json.dumps(found.as_json())), "p") == found


def test_launches_that_prepare_others_are_told_apart() -> None:
    """A prompt's rows are staged for tensor cores by a launch of their own."""
    module = lowered("plain", "bf16", target=CUDA, context=96, prefill=(64,)).module
    stream, function = generate(module).streams["prefill_64"], module.functions["prefill_64"]
    parts = launches_of(stream, function, 64)
    assert len({(p.index, p.part) for p in parts}) == len(parts)
    staged = [p for p in parts if p.template.startswith("stage_")]
    assert staged
    assert all(p.flops == 0 and p.bytes for p in staged)
    assert sum(p.flops for p in parts) == sum(bytes_and_flops(op, 64, 1)[1] for op in function.ops)


def test_time_of_fused_operations_is_estimated(plan: Path) -> None:
    model = graphllm.load(plan, device="numpy")
    found = profile(model, What("decode", 0, 2))
    for k in found.kernels:
        assert len(k.op_shares) == len(k.ops)
        assert sum(k.op_shares) == pytest.approx(1, abs=1e-3)
    gate = next(k for k in found.kernels if "silu" in k.ops)
    assert max(zip(gate.op_shares, gate.ops, strict=True))[1] == "linear"
    assert "operation, estimated" in profile_text(found)
    assert found.plain_ns > 0


def test_marks_change_no_result_and_stand_in_no_plan(plan: Path) -> None:
    model = graphllm.load(plan, device="numpy")
    told = clock(model.plan.file, model.lowered, "numpy")
    for position, token in enumerate((3, 1, 4)):
        assert np.array_equal(told.device.row(token, position, 0), model.engine.step(token))
    assert "mark(" not in generate_numpy(model.lowered)
    assert "mark(" in generate_numpy(model.lowered, timed=True)
    module = lowered_for(model.plan.file, "cpu")
    assert "mark" not in generate_cpu(module)
    assert generate_cpu(module, timed=True).count("mark(step, ") == 2 * sum(
        len(f.ops) for f in module.functions.values()
    )


def test_operations_by_themselves(plan: Path) -> None:
    model = graphllm.load(plan, device="numpy")
    found = profile(model, What("decode", 0, 2, apart=True))
    assert max(len(k.ops) for k in found.kernels) == 1
    assert {"rmsnorm", "linear", "attention", "silu"} <= {k.ops[0] for k in found.kernels}


def test_bytes_of_attention_follow_the_position(plan: Path) -> None:
    model = graphllm.load(plan, device="numpy")
    kernel = next(op for op in model.lowered.functions["decode"].ops if op.template == "attention")
    (few, a), (many, b) = (bytes_and_flops(kernel, n, 1) for n in (2, 6))
    state = next(iter(model.lowered.states.values())).type
    assert few == kernel_bytes(kernel) + 2 * 2 * state.bytes // 8
    assert many - few == 4 * 2 * state.bytes // 8
    assert b == 3 * a


def test_command(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, svg, out = tmp_path / "t.json", tmp_path / "f.svg", tmp_path / "p.json"
    files = ["--trace", str(trace), "--svg", str(svg), "-o", str(out)]
    assert main(["profile", str(plan), "--device", "numpy", "--steps", "2", *files]) == 0
    page = capsys.readouterr().out
    assert "outside kernels" in page
    found = profile_from_json(json.loads(out.read_text()), "p.json")
    assert profile_text(found) + "\n" == page
    events = json.loads(trace.read_text())["traceEvents"]
    assert json.loads(json.dumps(chrome_trace(found)))["traceEvents"] == events
    assert {e["ph"] for e in events} == {"M", "X"}
    assert all(e["dur"] >= 0 and e["ts"] >= 0 for e in events if e["ph"] == "X")
    bars = [
        g for g in ElementTree.fromstring(svg.read_text()).iter("{http://www.w3.org/2000/svg}g") if g.get("data-id")
    ]
    assert len(bars) == 1 + len({k.layer for k in found.kernels if k.layer >= 0}) + len(found.kernels)
    assert flame_svg(found) == svg.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--function", "nothing"], "30 steps of nothing; expected 1 or more of decode"),
        (["--steps", "0"], "0 steps of decode"),
        (["--position", "8"], "position 8; expected at most 7"),
    ],
)
def test_mistakes(plan: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert main(["profile", str(plan), "--device", "numpy", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert words in said.err
    assert said.err.count("\n") == 1
