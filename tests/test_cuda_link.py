"""A plan on a GPU: whose machine code is run, what is told before weights are read, what the command line says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import graphllm
from graphllm.cli import main
from graphllm.codegen.cuda.generate import generate
from graphllm.compiler import link_cuda as link
from graphllm.compiler.link import module_of
from graphllm.compiler.nvrtc import build, library
from graphllm.compiler.nvrtc.carried import carried_archs
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.errors import DeviceError, GraphLLMError, NativeError, PlanError
from graphllm.plan.launch import Kernel, Program
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.cuda.calls import Calls
from tests.cuda_programs import needs_nvrtc
from tests.fake_bindings import FakeCuda
from tests.small_plans import small_plan

IDS = [1, 5, 3, 7]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A plan that carries machine code for two architectures: text that names kernel and architecture."""
    folder = tmp_path_factory.mktemp("cuda")
    with pytest.MonkeyPatch.context() as m:
        m.setenv("GRAPHLLM_CACHE", str(folder / "cache"))
        m.setattr(build, "nvrtc_version", lambda: "0")
        m.setattr(build, "_WORTH_A_PROCESS", 1 << 20)
        m.setattr(build, "compile_text", lambda text, name, *_: (f"code of {name}".encode(), "Used 9 registers"))
        yield small_plan(folder, "carrying.gllm", target="cuda", archs=("sm_90", "sm_80"))


@pytest.fixture
def plan(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(made, tmp_path))


class Compiler:
    """What was compiled since, and what was said of it."""

    def __init__(self, m: pytest.MonkeyPatch, folder: Path) -> None:
        self.names: list[str] = []
        self.said: list[str] = []
        m.setenv("GRAPHLLM_CACHE", str(folder))
        m.setattr(link, "built", self.built)

    def built(self, kernels: Any, archs: Any, say: Any = None) -> dict[tuple[str, str], Cubin]:
        self.names += [k.name for k in kernels]
        return {(k.name, a): Cubin(k.name, a, b"new", "") for k in kernels for a in archs}


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Compiler:
    return Compiler(monkeypatch, tmp_path / "own cache")


def code(plan: Path, arch: str, capability: tuple[int, int], trust: bool, c: Compiler) -> dict[str, Cubin]:
    with PlanFile.open(plan) as file:
        program = link.program_of(file, module_of(file, "lowered/cuda"))
        gpu: Any = SimpleNamespace(arch=arch, capability=capability)
        found = link.machine_code(file, program, gpu, trust, c.said.append)
    assert set(found) == set(program.kernels)
    return found


def test_code_that_a_plan_carries_is_run_when_it_is_trusted(plan: Path, compiler: Compiler) -> None:
    found = code(plan, "sm_90", (9, 0), True, compiler)
    assert {c.arch for c in found.values()} == {"sm_90"}
    assert all(c.code == f"code of {name}.cu".encode() for name, c in found.items())
    assert not compiler.names
    assert not compiler.said
    older = code(plan, "sm_86", (8, 6), True, compiler)  # a later card of the same generation
    assert {c.arch for c in older.values()} == {"sm_80"}


def test_code_that_a_plan_carries_is_not_run_otherwise(plan: Path, compiler: Compiler) -> None:
    found = code(plan, "sm_90", (9, 0), False, compiler)
    assert {c.code for c in found.values()} == {b"new"}
    assert set(compiler.names) == set(found)


def test_code_for_another_gpu_is_compiled_again_in_one_line(plan: Path, compiler: Compiler) -> None:
    found = code(plan, "sm_120", (12, 0), True, compiler)
    assert {c.code for c in found.values()} == {b"new"}
    assert compiler.said == ["machine code in the plan is for sm_80, sm_90; compiling for sm_120"]


def test_code_of_other_kernels_is_not_taken_for_ours(
    plan: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = link.generate

    def newer(module: Any) -> Program:
        program = generate(module)
        kernels = {n: Kernel(n, k.text + "// newer\n", k.ir) for n, k in program.kernels.items()}
        return Program(kernels, program.streams, program.weights, program.states, program.arena, program.memory)

    monkeypatch.setattr(link, "generate", newer)
    assert {c.code for c in code(plan, "sm_90", (9, 0), True, compiler).values()} == {b"new"}
    assert compiler.said == ["machine code in the plan is not of these kernels; compiling for sm_90"]


def test_damaged_code_is_compiled_again(plan: Path, compiler: Compiler, capsys: pytest.CaptureFixture[str]) -> None:
    content = plan.read_bytes()
    at = content.rindex(b"code of choose")
    plan.write_bytes(content[:at] + b"C" + content[at + 1 :])
    found = code(plan, "sm_90", (9, 0), True, compiler)
    assert len(compiler.names) == 1
    assert compiler.names[0].startswith("choose")
    assert sum(c.code == b"new" for c in found.values()) == 1
    assert main(["verify", str(plan)]) == 2  # which is asked about every byte
    assert "code/sm_" in capsys.readouterr().err


def test_without_nvrtc_trust_is_offered(plan: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any) -> Any:
        raise NativeError('NVRTC: not installed; run `pip install "graphllm[cuda]"`')

    monkeypatch.setattr(link, "built", missing)
    with pytest.raises(NativeError, match=r"pip install .*; or run the plan's own machine code with --trust-code$"):
        code(plan, "sm_90", (9, 0), False, compiler)
    with pytest.raises(NativeError, match=r"\[cuda\]\"`$"):  # it would be of no use there
        code(plan, "sm_120", (12, 0), False, compiler)
    assert code(plan, "sm_90", (9, 0), True, compiler)


def test_what_a_plan_carries(plan: Path) -> None:
    with PlanFile.open(plan, verify="all") as file:
        assert carried_archs(file) == ["sm_80", "sm_90"]
        kernels = len(link.program_of(file, module_of(file, "lowered/cuda")).kernels)
        assert len(file.code) == 2 * kernels
        assert file.documents["options"]["archs"] == ["sm_90", "sm_80"]
        with pytest.raises(KeyError):
            file.machine_code("sm_90/none")
    assert main(["verify", str(plan)]) == 0


def test_the_same_compile_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_nvrtc()
    monkeypatch.setenv("GRAPHLLM_CACHE", str(tmp_path / "cache"))
    small = {"target": "cuda", "archs": ("sm_90",)}
    first = small_plan(tmp_path / "a", "x.gllm", **small).read_bytes()
    shutil.rmtree(tmp_path / "cache")
    assert small_plan(tmp_path / "b", "x.gllm", **small).read_bytes() == first


def test_too_little_memory_is_told_before_anything_is_read_or_compiled(
    plan: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda(room=(96 << 20) + 3000)
    monkeypatch.setattr(link, "driver_calls", lambda: Calls(cuda))
    monkeypatch.setattr(PlanFile, "weight", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(DeviceError, match=r"^memory of NVIDIA Fake 100.* free; expected .*: weights .*, KV cache "):
        graphllm.load(plan, device="cuda")
    assert not compiler.names
    assert cuda.retained == 0


def test_a_gpu_that_is_there_is_given_the_kernels(
    plan: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(link, "driver_calls", lambda: Calls(cuda))
    model = graphllm.load(plan, device="cuda:3", trust_code=True)
    assert model.engine.device.name == "cuda"
    assert cuda.ordinal == 3
    images = {cuda._things[m] for m in cuda.held["modules"]}
    assert b"code of choose_1.cu" in images
    assert cuda.calls.count("cuModuleLoadData") == len(images)
    assert not compiler.names
    graphs = 0  # all that any step may need, before the first
    for stream in generate(model.lowered).streams.values():
        sizes = len(stream.buckets) if any(launch.chunked for launch in stream.launches) else 1
        graphs += sizes * (2 if stream.choice else 1)
    assert len(cuda.held["graphs"]) == graphs > len(model.lowered.functions)


def test_an_error_while_loading_lets_the_gpu_go(
    plan: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cuModuleLoadData", "cuMemAlloc", "cuMemcpyHtoDAsync", "cuGraphInstantiate"):
        cuda = FakeCuda()
        cuda.fail[name] = 2
        monkeypatch.setattr(link, "driver_calls", lambda cuda=cuda: Calls(cuda))
        with pytest.raises(DeviceError):
            graphllm.load(plan, device="cuda")
        assert cuda.retained == 0, name
        assert not any(cuda.held.values()), name


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"archs": ("sm_90",)}, "arch: sm_90: expected target cuda with it, got numpy"),
        ({"target": "cuda", "archs": ("sm_91",)}, "arch: 'sm_91'; expected some of sm_75"),
        ({"target": "gpu"}, "target: 'gpu'; expected cpu, numpy, cuda"),
    ],
)
def test_choices_that_make_no_sense(choices: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(GraphLLMError) as caught:
        small_plan(tmp_path, **({"target": "numpy"} | choices))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1000", "cpu :0", "cuda-sim2"])
def test_devices_that_there_are_not(name: str, plan: Path) -> None:
    with pytest.raises(GraphLLMError, match=r"^device .*: expected cpu, numpy, cuda, cuda-sim, or one with a number"):
        graphllm.load(plan, device=name)


def test_the_source_of_every_kernel_is_shown(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(plan), "--source", "cuda"]) == 0
    text = capsys.readouterr().out
    with PlanFile.open(plan) as file:
        program = link.program_of(file, module_of(file, "lowered/cuda"))
        assert file.sections["source/cuda"].rstrip() == text.rstrip()
    assert all(kernel.text.rstrip() in text for kernel in program.kernels.values())
    assert f"// ---- decode: {len(program.streams['decode'].launches)} launches a step" in text


def test_nvrtc_is_asked_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    """Loading a plan for other devices must not look for a GPU's compiler."""
    monkeypatch.setattr(library, "_bindings", lambda: pytest.fail("NVRTC was looked for"))
    model = graphllm.load(plan, device="numpy")
    assert len(model.generate(IDS, max_tokens=2, ignore_eos=True).tokens) == 2


def test_a_plan_with_a_part_of_no_name_is_refused(plan: Path) -> None:
    content = plan.read_bytes()
    assert content.count(b'"code/sm_80/') > 1
    at = content.index(b'"code/sm_80/')
    plan.write_bytes(content[: at + 1] + b"kode" + content[at + 5 :])
    with pytest.raises(PlanError, match=r"not a part of a plan|header"):
        PlanFile.open(plan)
