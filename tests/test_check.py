"""``check``: what it says a plan takes is what devices then hold, to the byte; the largest that fits is the largest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import graphllm
from graphllm.cli import main
from graphllm.compiler.backends import BACKENDS
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.compiler.options import Options
from graphllm.compiler.targets import TargetName
from graphllm.errors import GraphLLMError
from graphllm.frontends.checkpoint import TensorSource
from graphllm.measure.fit.check import Ask, Fit, check
from graphllm.measure.fit.footprint import Setting
from graphllm.measure.fit.largest import largest_that_fits
from graphllm.measure.fit.sizes import bytes_of
from graphllm.passes.quantize_int8 import Quantization
from graphllm.plan.plan_file import PlanFile
from tests.cpu_models import quick_builds
from tests.small_plans import small_plan

__all__ = ["quick_builds"]
HUGE = 1 << 50
TARGETS: tuple[TargetName, ...] = tuple(BACKENDS)
STORED: dict[str, dict[str, Any]] = {
    "f32": {},
    "bf16": {"dtype": "bf16"},
    "int8": {"quantize": Quantization("int8", group=4)},
    "dynamic": {"quantize": Quantization("int8-dynamic", group=4), "kv_dtype": "i8"},
}


@pytest.fixture(autouse=True)
def _built_quickly(request: pytest.FixtureRequest) -> None:
    if compiler_command() is not None:
        request.getfixturevalue("quick_builds")


def on(target: TargetName) -> TargetName:
    if target == "cpu" and compiler_command() is None:
        pytest.skip("no C++ compiler on this machine")
    return target


def plan(folder: Path, **options: Any) -> Path:
    return small_plan(folder, slots=2, context=12, **options)


class TestFootprint:
    @pytest.mark.parametrize(
        ("target", "stored"),
        # a library is built for every case of cpu, so it has two: weights at odd places, and every kind of kernel
        [(t, s) for t in TARGETS for s in STORED if t == "numpy" or (t == "cpu" and s in ("f32", "dynamic"))],
    )
    def test_it_is_what_the_device_holds(self, tmp_path: Path, target: TargetName, stored: str) -> None:
        path = small_plan(tmp_path, slots=1, context=8, target=on(target), **STORED[stored])
        model = graphllm.load(path, device=target, threads=2, expand="never")
        for name in model.lowered.functions:
            model.engine.device.prepare(name)
        held = model.engine.device.memory
        said = check(path, Ask(target, Setting(threads=2, expand="never")), HUGE).footprint
        assert (said.weights + said.converted, said.states, said.arena) == (held.weights, held.states, held.arena)
        assert said.workspace == held.workspace
        assert (said.workspace > 0) == (target == "cpu")

    @pytest.mark.parametrize("stored", ["f32", "dynamic"])
    def test_it_is_what_is_allocated_on_a_gpu(self, tmp_path: Path, stored: str) -> None:
        """Counted by a driver that only counts."""
        from graphllm.compiler.link_cuda import program_of
        from graphllm.compiler.relower import lowered_for
        from graphllm.runtime.cuda.places import Places, Sizes

        class Counter:
            allocated = 0

            def allocate(self, size: int) -> int:
                self.allocated += size
                return 0

            def fill(self, address: int, size: int, byte: int) -> None:
                pass

        path = plan(tmp_path, **STORED[stored])
        file, counter = PlanFile.open(path), Counter()
        module = lowered_for(file, "cuda")
        Places(counter, Sizes.of(program_of(file, module), module))  # type: ignore[arg-type]
        fit = check(path, Ask("cuda"), HUGE)
        assert fit.footprint.total == counter.allocated
        assert fit.footprint.workspace > 0

    @pytest.mark.parametrize(("expand", "stored"), [("always", "bf16"), ("always", "int8"), ("auto", "bf16")])
    def test_weights_that_numpy_expands_are_counted(self, tmp_path: Path, expand: Any, stored: str) -> None:
        path = plan(tmp_path, target="numpy", **STORED[stored])
        model = graphllm.load(path, device="numpy", expand=expand)
        for name in model.lowered.functions:
            model.engine.device.prepare(name)
        said = check(path, Ask("numpy", Setting(expand=expand)), HUGE).footprint
        assert said.converted > 0
        assert said.weights + said.converted == model.engine.device.memory.weights

    def test_of_other_contexts_slots_and_caches(self, tmp_path: Path) -> None:
        path = plan(tmp_path)
        for context, slots, kv in ((16, 1, None), (7, 5, "f16"), (3, 3, "i8")):
            model = graphllm.load(path, device="numpy", context=context, slots=slots, kv_dtype=kv)
            for name in model.lowered.functions:
                model.engine.device.prepare(name)
            held = model.engine.device.memory
            fit = check(path, Ask("numpy", context=context, slots=slots, kv_dtype=kv), HUGE)
            assert (fit.footprint.states, fit.footprint.arena) == (held.states, held.arena)
            assert fit.position * context * slots == held.states

    def test_of_a_checkpoint_is_that_of_its_plan(self, tmp_path: Path) -> None:
        path = plan(tmp_path, target="numpy", dtype="bf16")
        options = Options(dtype="bf16")
        before = check(tmp_path / "model", Ask("numpy", context=12, slots=2, options=options), HUGE)
        assert before == check(path, Ask("numpy"), HUGE)

    def test_no_weight_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = plan(tmp_path)

        def read(*_: object) -> None:
            raise AssertionError("a weight was read")

        monkeypatch.setattr(PlanFile, "weight", read)
        monkeypatch.setattr(PlanFile, "verify_weights", read)
        assert check(path, Ask("numpy"), HUGE).fits
        from graphllm.frontends import huggingface

        opened = huggingface.read_huggingface(tmp_path / "model")
        unread = {name: TensorSource(t.source, t.dtype, t.shape, read) for name, t in opened.tensors.items()}  # type: ignore[arg-type]
        monkeypatch.setattr("graphllm.compiler.compile.open_checkpoint", lambda *_: replace(opened, tensors=unread))
        assert check(tmp_path / "model", Ask("numpy"), HUGE).fits


class TestLargest:
    def test_one_more_would_not_fit(self, tmp_path: Path) -> None:
        target: TargetName = "numpy"
        path = plan(tmp_path, target=target)
        small, large = (check(path, Ask(target, context=n), HUGE).footprint.total for n in (3, 16))
        room = (small + large) // 2
        fit = check(path, Ask(target), room)
        assert 3 <= fit.largest_context < 16
        assert self.total(path, target, fit.largest_context) <= room < self.total(path, target, fit.largest_context + 1)
        assert fit.fits == (fit.largest_context >= 12)

    @staticmethod
    def total(path: Path, target: TargetName, context: int) -> int:
        return check(path, Ask(target, context=context), HUGE).footprint.total

    def test_batch(self, tmp_path: Path) -> None:
        path = plan(tmp_path, target="numpy")
        room = check(path, Ask("numpy", slots=6), HUGE).footprint.total
        assert check(path, Ask("numpy"), room).largest_slots == 6
        assert check(path, Ask("numpy"), room - 1).largest_slots == 5

    def test_nothing_fits(self, tmp_path: Path) -> None:
        fit = check(plan(tmp_path, target="numpy"), Ask("numpy"), 1000)
        assert (fit.fits, fit.largest_context, fit.largest_slots) == (False, 0, 0)

    def test_never_beyond_what_the_model_claims(self, tmp_path: Path) -> None:
        fit = check(plan(tmp_path), Ask("numpy"), HUGE)
        assert fit.largest_context == fit.context_limit == 16
        assert check(plan(tmp_path), Ask("numpy", context=40), HUGE).largest_context == 40

    def test_of_any_growing_total(self) -> None:
        """Against trying them all, on steps, slopes and jumps; and with few tries."""
        random = Random(3)
        for _ in range(300):
            slope, base, cap = random.randint(1, 50), random.randint(0, 3000), random.randint(1, 400)
            jump = random.choice((0, 17, 200, 5000))
            more = [0]
            for _ in range(cap + 1):
                more.append(more[-1] + random.choice((0, 0, 0, jump)))
            tried: list[int] = []

            def total(n: int, base: int = base, slope: int = slope, more: Any = more, tried: Any = tried) -> int:
                tried.append(n)
                return base + slope * n + more[n]

            room = random.randint(0, 2 * (base + slope * cap))
            fitting = [n for n in range(1, cap + 1) if base + slope * n + more[n] <= room]
            assert largest_that_fits(total, slope, room, cap) == max(fitting, default=0)
            assert len(tried) <= 24


class TestCommand:
    def test_exit_codes_and_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = str(plan(tmp_path))
        assert main(["check", path, "--device", "numpy", "--memory", "1GiB"]) == 0
        assert "fits" in capsys.readouterr().out
        assert main(["check", path, "--device", "numpy", "--memory", "1kB", "--json"]) == 1
        said = json.loads(capsys.readouterr().out)
        assert said["fits"] is False
        assert said["room"] == 1000
        assert said["footprint"]["total"] == sum(v for k, v in said["footprint"].items() if k != "total")

    def test_what_is_free_where_nothing_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check", str(plan(tmp_path)), "--device", "numpy:0"]) == 0
        assert "largest context" in capsys.readouterr().out
        assert main(["check", str(plan(tmp_path)), "--device", "cuda-sim"]) == 0
        assert "copied to the device" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--memory", "8 apples"], "--memory: '8 apples'; expected a size"),
            (["--memory", "0"], "expected a size"),
            (["--memory", "9" * 400 + "TiB"], "expected a size"),
            (["--device", "tpu"], "device 'tpu'"),
            (["--device", "numpy:x"], "device 'numpy:x'"),
            (["--device", "numpy:7"], "does not say how much memory is free"),
            (["--quantize", "int8"], "a plan; precision"),
            (["--context", "99999999"], "16777216"),
        ],
    )
    def test_mistakes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
    ) -> None:
        assert main(["check", str(plan(tmp_path)), *arguments]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert words in said.err
        assert said.err.count("\n") == 1

    def test_of_what_is_no_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "x.gllm").write_bytes(b"nonsense")
        assert main(["check", str(tmp_path / "x.gllm"), "--memory", "1GB"]) == 2
        assert main(["check", str(tmp_path / "none"), "--memory", "1GB"]) == 2
        assert capsys.readouterr().err.count("\n") == 2


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("2kB", 2000), ("2KiB", 2048), ("1.5 GiB", 3 << 29), ("8GB", 8 * 10**9), ("1TiB", 1 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert bytes_of(text, "here") == size


def test_a_size_names_its_place() -> None:
    with pytest.raises(GraphLLMError, match="here: '8 G'"):
        bytes_of("8 G", "here")


def test_as_json_is_json(tmp_path: Path) -> None:
    fit: Fit = check(plan(tmp_path), Ask("numpy"), HUGE)
    assert json.loads(json.dumps(fit.as_json()))["fits"] is True
