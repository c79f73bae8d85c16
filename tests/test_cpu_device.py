"""The native device: its answers against the float64 oracle, its threads, its memory, and what it refuses."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.codegen.cpu.order import weight_names
from graphllm.codegen.cpu.target import FEW
from graphllm.compiler.native import build
from graphllm.compiler.native.isa import Isa, cpu_features
from graphllm.errors import NativeError
from graphllm.runtime.cores import physical_cores
from graphllm.runtime.cpu_device import CpuDevice
from graphllm.runtime.device import Row
from graphllm.runtime.engine import Engine
from tests.cpu_models import SANITIZER, cpu_device, cpu_engine, cpu_lowered, quick_builds, shipped_builds
from tests.lowered_models import Lowered, Storage
from tests.reference_forward import reference_logits

__all__ = ["quick_builds", "shipped_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")
Logits = NDArray[np.float32]

MODELS: tuple[tuple[str, Storage], ...] = (
    ("plain", "f32"),
    ("odd_sizes", "bf16"),
    ("odd_interleaved", "flat"),
    ("everything", "f32"),
    ("everything", "int8"),
    ("window_mixed", "f16"),
    ("mqa", "int8"),
)


BF16_PROMPT = 3000  # times the bound: 8 bits of an activation instead of 24, over some layers


def ids_of(model: Lowered, n: int = 40, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.config.vocab, n).tolist()


def scored(engine: Engine, ids: list[int]) -> Logits:
    engine.truncate(0)
    return np.concatenate([np.array(block) for block in engine.score(ids)])


def one_by_one(engine: Engine, ids: list[int], slot: int = 0) -> Logits:
    engine.truncate(0, slot)
    return np.array([np.array(engine.step(token, slot)) for token in ids])


def fed(engine: Engine, ids: list[int], chunk: int = 0) -> Logits:
    engine.truncate(0)
    return np.array(engine.feed(ids, chunk=chunk))


def batched(engine: Engine, prompts: list[list[int]]) -> Logits:
    """Logits after each prompt's last token, which all take in one step."""
    for slot, prompt in enumerate(prompts):
        engine.truncate(0, slot)
        engine.feed(prompt[:-1], slot)
    return np.array(engine.step_many([(prompt[-1], slot) for slot, prompt in enumerate(prompts)]))


@pytest.mark.parametrize(("name", "storage"), MODELS)
def test_scored_in_chunks_one_by_one_and_batched(name: str, storage: Storage) -> None:
    """The oracle's logits, with an arena that holds NaN before every step."""
    model = cpu_lowered(name, storage)
    engine, ids = cpu_engine(model, threads=2, poison=True), ids_of(model)
    reference = reference_logits(model.config, model.tensors, ids)
    bound = 1e-5 * np.abs(reference).max()
    assert np.abs(scored(engine, ids) - reference).max() <= bound
    assert np.abs(one_by_one(engine, ids) - reference).max() <= bound
    for chunk in (0, 1, 5, 8, 31):
        rounded = storage == "bf16" and (chunk == 0 or chunk > FEW)  # activations of many rows are bf16 there
        assert np.abs(fed(engine, ids, chunk) - reference[-1]).max() <= (BF16_PROMPT if rounded else 1) * bound
    prompts = [ids[:7], ids[:2], ids[:23]]
    got = batched(engine, prompts)
    for logits, prompt in zip(got, prompts, strict=True):
        factor = BF16_PROMPT if storage == "bf16" and len(prompt) > FEW else 1
        assert np.abs(logits - reference[len(prompt) - 1]).max() <= factor * bound


@pytest.mark.parametrize("isa", ["avx2", "portable"])
@pytest.mark.parametrize("storage", ["f32", "bf16", "f16", "int8"])
def test_fewer_instructions(storage: Storage, isa: Isa) -> None:
    """What other CPUs would be given, on this one."""
    if isa == "avx2" and not {"avx2", "fma", "f16c"} <= set(cpu_features().split()):
        pytest.skip("this CPU has no AVX2")
    model = cpu_lowered("everything", storage, kv_dtype="f16")
    engine, ids = cpu_engine(model, threads=2, isa=isa), ids_of(model)
    native = cpu_engine(model, threads=2)
    for run in (scored, one_by_one, fed):
        got, want = run(engine, ids), run(native, ids)
        assert np.abs(got - want).max() <= 1e-3 * np.abs(want).max()


@pytest.mark.parametrize(("name", "storage"), MODELS)
def test_no_bit_depends_on_the_number_of_threads(name: str, storage: Storage) -> None:
    model = cpu_lowered(name, storage)
    ids, found = ids_of(model), list[list[bytes]]()
    for threads in (1, 2, 3, 7):
        engine = cpu_engine(model, threads=threads)
        prompts = [ids[:7], ids[:2], ids[:23]]
        every = [scored(engine, ids), one_by_one(engine, ids[:6]), fed(engine, ids), batched(engine, prompts)]
        found.append([a.tobytes() for a in every])
    assert all(other == found[0] for other in found[1:])


@pytest.mark.usefixtures("shipped_builds")
@pytest.mark.parametrize(("name", "storage"), [("everything", "bf16"), ("plain", "int8")])
def test_no_bit_depends_on_the_number_of_threads_as_shipped(name: str, storage: Storage) -> None:
    """Optimised loops have vectors and rests; where one ends and the other begins must not follow a thread's part."""
    test_no_bit_depends_on_the_number_of_threads(name, storage)


@pytest.mark.usefixtures("shipped_builds")
@pytest.mark.parametrize(("name", "storage"), [("everything", "bf16"), ("plain", "int8")])
def test_no_bit_of_a_row_depends_on_the_others(name: str, storage: Storage) -> None:
    """In a step of few rows, who else is there does not matter, nor which row one has."""
    model = cpu_lowered(name, storage)
    engine, ids = cpu_engine(model, threads=2), ids_of(model)
    prompts = [ids[:7], ids[3:5], ids[:23], ids[9:20]]
    together = batched(engine, prompts)
    for i, prompt in enumerate(prompts):
        others = [prompts[i - 1], prompt, prompts[i - 2]]
        assert batched(engine, others)[1].tobytes() == together[i].tobytes()


def test_a_cache_of_half_the_size() -> None:
    model = cpu_lowered("everything", "f32", kv_dtype="f16")
    engine, ids = cpu_engine(model, threads=2, poison=True), ids_of(model)
    reference = reference_logits(model.config, model.tensors, ids)
    error = np.abs(one_by_one(engine, ids) - reference).max() / np.abs(reference).max()
    assert 1e-5 < error < 3e-3  # keys and values are rounded to 11 bits, and that is seen
    assert engine.device.memory.states * 2 == cpu_engine(cpu_lowered("everything")).device.memory.states


def test_rows_that_are_not_there_leave_no_trace() -> None:
    """Blank rows of a step write no cache: the engine's slots beside the one in use keep every byte."""
    model = cpu_lowered("plain")
    device = cpu_device(model.module, model.weights, threads=2)
    for state in device.states.values():
        state[...] = 7.0
    device.block("prefill_32", ids_of(model, 9), 5, 2)
    device.rows("decode_4", [Row(3, 11, 1), Row(4, 2, 3)])
    for state in device.states.values():
        changed = {(s, p) for s, _, p, _ in np.argwhere(state != 7.0).tolist()}
        assert changed == {*((2, p) for p in range(5, 14)), (1, 11), (3, 2)}


def test_two_models_and_many_python_threads() -> None:
    first, second = cpu_lowered("plain"), cpu_lowered("odd_sizes", "bf16")
    devices = [cpu_device(m.module, m.weights, threads=2) for m in (first, second)]
    alone = [[np.array(d.row(t, 0, 0)) for t in range(20)] for d in devices]

    def ask(job: int) -> bool:
        device, token = job % 2, job % 20
        logits = devices[device].row(token, 0, job % 4)
        return logits.shape == alone[device][token].shape  # another thread may have written the next ones since

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(300 if SANITIZER else 2000)))
    for device, want in zip(devices, alone, strict=True):
        assert np.array(device.row(5, 0, 0)).tobytes() == want[5].tobytes()


def test_steps_without_end_on_one_core() -> None:
    """Ten thousand steps of more threads than there are cores, all of them pinned to one."""
    model = cpu_lowered("one_layer")
    device = cpu_device(model.module, model.weights, threads=1)
    want = device.row(3, 0, 0).tobytes()
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from tests.cpu_models import build, cpu_device, cpu_lowered
build.FLAGS = {build.FLAGS!r}
model = cpu_lowered("one_layer")
device = cpu_device(model.module, model.weights, threads=4)
first = device.row(3, 0, 0).tobytes()
assert all(device.row(3, 0, 0).tobytes() == first for _ in range(10_000))
print(first.hex())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == want.hex()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_a_forked_child_computes_the_same(used: bool) -> None:
    model = cpu_lowered("plain")
    device = cpu_device(model.module, model.weights, threads=3)
    want = device.row(3, 0, 0).tobytes() if used else cpu_device(model.module, model.weights).row(3, 0, 0).tobytes()
    child = os.fork()
    if child == 0:
        os._exit(0 if all(device.row(3, 0, 0).tobytes() == want for _ in range(50)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert device.row(3, 0, 0).tobytes() == want


def test_memory_is_let_go_with_the_device() -> None:
    model = cpu_lowered("plain")
    before = threads_of_this_process()
    device = cpu_device(model.module, model.weights, threads=5)
    device.row(1, 0, 0)
    stored = sum(a.nbytes for a in model.weights.values())
    states = sum(s.type.bytes for s in model.module.states.values())
    arena = max(f.arena or 0 for f in model.module.functions.values())
    m = device.memory
    assert (m.mapped, m.arena, m.states) == (stored, arena, states)
    assert m.weights in (stored, stored + sum(a.nbytes for a in model.weights.values() if a.ctypes.data % 64))
    device.close()
    device.close()
    assert threads_of_this_process() <= before
    del device
    gc.collect()


def threads_of_this_process() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("int unrelated;", "cannot be loaded; .*graphllm_abi"),
        ('extern "C" int graphllm_abi() { return 99; }', "expected interface 4, got 99"),
    ],
)
def test_a_library_that_is_not_ours(text: str, words: str) -> None:
    model = cpu_lowered("plain")
    library = build.built(text)
    with pytest.raises(NativeError, match=rf"^native code .*: {words}"):
        CpuDevice(model.module, library, weight_names(model.module), model.weights.__getitem__, threads=1)


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    model = cpu_lowered("plain")
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(NativeError, match=r"^native code text.so: cannot be loaded; "):
        CpuDevice(model.module, tmp_path / "text.so", weight_names(model.module), model.weights.__getitem__, threads=1)


Topology = Callable[[dict[int, str]], Path]


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    """A system of CPUs, by number, with the siblings that each says it has."""

    def make(siblings: dict[int, str]) -> Path:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(siblings), raising=False)
        for cpu, text in siblings.items():
            folder = tmp_path / f"cpu{cpu}" / "topology"
            folder.mkdir(parents=True)
            if text:
                (folder / "thread_siblings_list").write_text(text + "\n")
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("siblings", "quota", "cores"),
    [
        ({0: "0", 1: "1"}, "", 2),
        ({0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5"}, "", 2),
        ({0: "0-1", 1: "0-1"}, "max 100000", 1),
        (dict.fromkeys(range(6), ""), "250000 100000", 2),
        ({i: str(i) for i in range(6)}, "10000 100000", 1),
        ({3: "3,7"}, "900000 100000", 1),
    ],
)
def test_a_thread_for_each_core_that_may_be_used(
    topology: Topology, siblings: dict[int, str], quota: str, cores: int
) -> None:
    root: Any = topology(siblings)
    if quota:
        (root / "cpu.max").write_text(quota + "\n")
    assert physical_cores(root, root) == cores
