"""The real driver, as far as it goes without a GPU: what it calls, in which state, and what it makes of every code."""

from __future__ import annotations

import ctypes.util
import sys
import threading
from typing import Any

import numpy as np
import pytest

from graphllm.errors import DeviceError
from graphllm.runtime.cuda import calls as calls_module
from graphllm.runtime.cuda.calls import Calls, driver_calls
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.cuda.driver import Address, Resolved
from graphllm.runtime.cuda.gpu import Gpu
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import Sampler, SamplerConfig
from tests.fake_bindings import LAUNCH_FAILED, NO_DEVICE, OUT_OF_MEMORY, FakeCuda
from tests.fake_gpu import model_kernels, model_program
from tests.lowered_models import device, engine, lowered

WARM = SamplerConfig(temperature=0.9, seed=1)


def on_gpu(cuda: FakeCuda, name: str = "one_layer") -> tuple[Engine, Gpu]:
    """A model of the zoo on a GPU that the stand-in plays."""
    model = lowered(name)
    program = model_program(model.module)
    cuda.gpu.kernels = model_kernels(program, device(model))
    gpu = Gpu(Calls(cuda))
    gpu.load({k: b"\x7fELF" + k.encode() for k in program.kernels}, dict.fromkeys(program.kernels, gpu.arch))
    return Engine(CudaDevice(gpu, program, model.module, model.weights.__getitem__), model.module), gpu


def test_a_model_runs_on_it() -> None:
    cuda = FakeCuda()
    own, gpu = on_gpu(cuda, "plain")
    here = engine(lowered("plain"))
    assert gpu.what == "NVIDIA Fake 100, compute capability 9.0, CUDA 13.0"
    assert gpu.arch == "sm_90"
    for _ in range(2):
        assert np.array_equal(own.feed(list(range(3, 15))), here.feed(list(range(3, 15))))
        sampler, other = Sampler(WARM, 67, 67), Sampler(WARM, 67, 67)
        token = 5
        for chosen in own.tokens(5, 0, sampler, 6):
            assert chosen == other.sample(here.step(token), [])
            token = chosen
        for e in (own, here):
            e.truncate(0)


def test_launches_that_are_timed_do_not_overlap_and_have_events_between() -> None:
    cuda = FakeCuda()
    own, _ = on_gpu(cuda)
    here = engine(lowered("one_layer"))
    cuda.calls.clear()
    taken, ends = own.device.time_launches("decode", [3], 0, 0)  # type: ignore[attr-defined]
    assert ends == [250_000]
    assert taken > 0
    drawn = [c for c in cuda.calls if c in ("cuEventRecordWithFlags", "cuLaunchKernelEx", "cuGraphGetEdges")]
    assert drawn == ["cuEventRecordWithFlags", "cuLaunchKernelEx", "cuEventRecordWithFlags"]
    own.device.time_launches("decode", [3], 0, 0)  # type: ignore[attr-defined]
    assert cuda.calls.count("cuGraphInstantiate") == 1
    here.step(3)
    assert np.array_equal(own.device.row(5, 1, 0), here.step(5))  # the cache is as any step leaves it
    own.device.close()


def test_memory_is_filled_to_see_how_fast() -> None:
    cuda = FakeCuda(room=1 << 20)
    own, _ = on_gpu(cuda)
    assert own.device.fill_rate(1) > 0  # type: ignore[attr-defined]
    assert cuda.calls.count("cuMemsetD8Async") == 8 + 2


def test_everything_is_let_go() -> None:
    cuda = FakeCuda()
    own, gpu = on_gpu(cuda)
    logits = own.step(3)
    kept = np.array(logits)
    assert len(cuda.held["memory"]) == 3  # weights, work, states
    assert all(cuda.held.values())
    del own
    gpu.close()
    assert not any(cuda.held.values()), cuda.held
    assert cuda.retained == 0
    assert np.array_equal(logits, kept)  # memory of ours, whatever became of the device
    with pytest.raises(DeviceError, match="the device is closed"):
        gpu.room()


@pytest.mark.parametrize("capability", [(9, 0), (12, 0), (8, 6), (7, 5)])
def test_launches_overlap_where_the_gpu_can(capability: tuple[int, int]) -> None:
    cuda = FakeCuda(capability=capability)
    _own, gpu = on_gpu(cuda)
    assert gpu.overlaps == (capability >= (9, 0))
    launch = Resolved("step_decode", (1, 2), 64, 0, (Address(1), Address(2)))
    graph = gpu.graph([launch] * 3)
    assert cuda._things[graph] == [launch] * 3
    captured = [t for t in cuda._things.values() if isinstance(t, list) and t and isinstance(t[0], tuple)][-1]
    assert [overlaps for _, overlaps in captured] == [False, gpu.overlaps, gpu.overlaps]


def test_a_capture_that_forgets_the_overlap_is_noticed() -> None:
    cuda = FakeCuda()
    cuda.programmatic = False
    _own, gpu = on_gpu(cuda)
    assert gpu.overlaps
    launch = Resolved("step_decode", (1, 1), 64, 0, (Address(1), Address(2)))
    gpu.graph([launch])
    assert gpu.overlaps  # one launch has nothing to overlap with
    gpu.graph([launch, launch])
    assert not gpu.overlaps


def test_large_shared_memory_is_asked_for_once() -> None:
    cuda = FakeCuda()
    _own, gpu = on_gpu(cuda)

    def asked(shared: int) -> int:
        before = cuda.calls.count("cuFuncSetAttribute")
        gpu.graph([Resolved("step_decode", (1, 1), 64, shared, (Address(1), Address(2)))])
        return cuda.calls.count("cuFuncSetAttribute") - before

    assert [asked(n) for n in (0, 49152, 49153, 49153, 60000, 50000, 60000)] == [0, 0, 1, 0, 1, 0, 0]


USED = (
    *("cuDeviceGet", "cuDeviceGetAttribute", "cuDeviceGetName", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"),
    *("cuStreamCreate", "cuModuleLoadData", "cuModuleGetFunction", "cuMemAlloc", "cuMemHostRegister"),
    *("cuMemsetD8Async", "cuMemcpyHtoDAsync", "cuEventCreate", "cuEventRecord", "cuEventQuery"),
    *("cuStreamBeginCapture", "cuLaunchKernelEx", "cuStreamEndCapture", "cuGraphGetEdges", "cuGraphInstantiate"),
    *("cuGraphUpload", "cuGraphLaunch", "cuMemcpyDtoHAsync"),
)


@pytest.mark.parametrize("name", USED)
def test_every_failure_is_named_and_the_process_goes_on(name: str) -> None:
    cuda = FakeCuda()
    cuda.fail[name] = LAUNCH_FAILED
    made: list[Engine] = []

    def use() -> None:
        made.append(on_gpu(cuda)[0])
        list(made[0].tokens(5, 0, Sampler(SamplerConfig(), 67, 67), 3))
        made[0].step(3)

    with pytest.raises(DeviceError, match=rf"^cuda: {name}: CUDA_ERROR_LAUNCH_FAILED; code 719 in words; the dev"):
        use()
    for own in made:
        with pytest.raises(DeviceError, match="the device is lost"):
            own.step(4)
        own.device.close()
        assert cuda.resets == 1
    fresh, _ = on_gpu(cuda)  # the model is loaded again
    here = engine(lowered("one_layer"))
    assert np.array_equal(fresh.feed([3, 4, 5]), here.feed([3, 4, 5]))


def test_all_that_is_called_has_failed_once() -> None:
    cuda = FakeCuda()
    own, gpu = on_gpu(cuda)
    list(own.tokens(5, 0, Sampler(SamplerConfig(), 67, 67), 3))
    own.step(3)
    seen = set(cuda.calls)
    gpu.close()
    assert seen - set(USED) - {"cuDriverGetVersion", "cuGraphDestroy"} == set()


def test_out_of_memory_tells_what_is_free() -> None:
    cuda = FakeCuda()
    cuda.fail["cuMemAlloc"] = OUT_OF_MEMORY
    gpu = Gpu(Calls(cuda))
    with pytest.raises(DeviceError, match=r"^memory of NVIDIA Fake 100.*: no 5 GB in one piece; 1.07 GB are free$"):
        gpu.allocate(5 * 10**9)
    assert gpu.allocate(100)  # nothing is lost


def test_out_of_memory_in_mid_run_can_be_survived() -> None:
    cuda = FakeCuda()
    own, _ = on_gpu(cuda)
    own.step(3)
    cuda.fail["cuGraphInstantiate"] = OUT_OF_MEMORY
    with pytest.raises(DeviceError, match="cuda: cuGraphInstantiate: CUDA_ERROR_OUT_OF_MEMORY; code 2 in words"):
        own.feed([1, 2, 3, 4, 5, 6, 7, 8])
    here = engine(lowered("one_layer"))
    here.step(3)
    assert np.array_equal(own.feed([1, 2, 3, 4, 5, 6, 7, 8]), here.feed([1, 2, 3, 4, 5, 6, 7, 8]))


def test_code_for_another_gpu_is_refused() -> None:
    for capability, arch in (((8, 6), "sm_90"), ((8, 0), "sm_86"), ((12, 0), "sm_90a"), ((9, 0), "sm_120")):
        gpu = Gpu(Calls(FakeCuda(capability=capability)))
        with pytest.raises(DeviceError, match=f"kernel k is for {arch}; expected one for NVIDIA Fake 100"):
            gpu.load({"k": b"\x7fELF"}, {"k": arch})
    for code, why in ((209, "the machine code is for another GPU"), (200, "the machine code is damaged")):
        cuda = FakeCuda()
        cuda.fail["cuModuleLoadData"] = code
        with pytest.raises(DeviceError, match=rf"cuda: cuModuleLoadData: .*; {why} \(kernel k\)$"):
            Gpu(Calls(cuda)).load({"k": b"\x7fELF"}, {"k": "sm_90"})


def test_gpus_that_kernels_are_not_made_for() -> None:
    for capability in ((7, 0), (6, 1), (11, 0)):
        cuda = FakeCuda(capability=capability)
        with pytest.raises(DeviceError, match=r"compute capability .* not supported; kernels are made for sm_75"):
            Gpu(Calls(cuda))
        assert cuda.retained == 0


def test_waiting_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    own, gpu = on_gpu(cuda)
    cuda.busy = 10_000
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("graphllm.runtime.cuda.gpu.time.sleep", nap)
    with pytest.raises(KeyboardInterrupt):
        own.step(3)
    cuda.busy = 0
    here = engine(lowered("one_layer"))
    assert np.array_equal(own.step(4), here.step(4))
    cuda.busy = 100
    gpu.wait(gpu.mark())
    assert cuda.busy == 0


def test_any_thread_may_step() -> None:
    cuda = FakeCuda()
    own, _ = on_gpu(cuda)
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(np.array(own.step(3))))
    thread.start()
    thread.join()
    assert np.array_equal(out[0], engine(lowered("one_layer")).step(3))


def _opened(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> Calls:
    monkeypatch.setattr(calls_module, "_bindings", lambda: cuda)
    return driver_calls()


def test_what_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as m:
        m.setitem(sys.modules, "cuda", None)
        m.setitem(sys.modules, "cuda.bindings", None)
        with pytest.raises(DeviceError, match=r'^cuda: its Python bindings are not installed; run `pip install "gra'):
            driver_calls()
    cuda = FakeCuda(version=12080)
    with pytest.raises(DeviceError, match=r"^cuda: the driver is for CUDA 12\.8; expected 13\.0 or later: install dri"):
        _opened(cuda, monkeypatch)
    cuda = FakeCuda()
    cuda.fail["cuInit"] = NO_DEVICE
    with pytest.raises(DeviceError, match=r"^cuda: cuInit: CUDA_ERROR_NO_DEVICE; no GPU is visible; .*VISIBLE_DEVICES"):
        _opened(cuda, monkeypatch)
    assert _opened(FakeCuda(), monkeypatch).lost == ""


def test_without_a_driver_one_line_says_so() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="pip install .[cuda]")
    if ctypes.util.find_library("cuda") is not None:
        pytest.skip("this machine has a driver")
    with pytest.raises(DeviceError, match=r"^cuda: no NVIDIA driver on this machine; run on --device cpu or"):
        driver_calls()
