"""A stand-in for ``cuda.bindings.driver``: its structures, functions that check what they are given, a GPU behind.

The GPU is ``FakeDriver``. Every function refuses what the real one would not forgive: a thread without a context, a
copy of memory that is not locked, what was freed, a launch outside of a capture. ``fail`` makes the next call of a
function return a code.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from graphllm.runtime.cuda.calls import Calls
from graphllm.runtime.cuda.driver import Address, Resolved
from tests.fake_gpu import FakeDriver, PyKernel

LAUNCH_FAILED, OUT_OF_MEMORY, NO_DEVICE, NOT_READY = 719, 2, 100, 600
QUIET = {"cuCtxSetCurrent", "cuGetErrorName", "cuGetErrorString", "cuDriverGetVersion", "cuInit", "cuDeviceGet"}
QUIET |= {"cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease"}
QUIET |= {"cuDevicePrimaryCtxReset", "cuDeviceGetCount"}  # of these none asks for a context


class FakeCuda:
    def __init__(
        self,
        kernels: Mapping[str, PyKernel] = {},
        capability: tuple[int, int] = (9, 0),
        version: int = 13000,
        room: int = 1 << 30,
    ) -> None:
        self._real = pytest.importorskip("cuda.bindings.driver", reason="pip install .[cuda]")
        self.gpu = FakeDriver(kernels, room)
        self.capability, self.version = capability, version
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.held: dict[str, set[int]] = {k: set() for k in ("memory", "locked", "events", "graphs", "modules")}
        self.retained = self.resets = 0
        self.others: dict[int, tuple[int, int]] = {}  # capabilities of further GPUs, by their numbers
        self.programmatic = True  # whether captures keep what launches ask for
        self.busy = 0  # how often a question is answered with "not yet"
        self._locked: dict[int, int] = {}
        self._current = threading.local()
        self._capture: list[tuple[Resolved, bool]] | None = None
        self._numbers = iter(range(1, 1 << 30))
        self._things: dict[int, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu") or name.startswith("cuda"):
            return getattr(self._real, name)
        function: Callable[..., tuple[Any, ...]] = getattr(type(self), f"_{name}").__get__(self)

        def called(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            assert name in QUIET or getattr(self._current, "context", None), f"{name}: no context in this thread"
            if name == "cuEventQuery" and self.busy:
                self.busy -= 1
                return (self._real.CUresult(NOT_READY),)
            if name in self.fail:
                return (self._real.CUresult(self.fail.pop(name)), *(None,) * (4 if name == "cuGraphGetEdges" else 0))
            assert self.retained or name in QUIET, f"{name}: after the context was let go"
            return (self._real.CUresult(0), *function(*arguments))

        return called

    def _new(self, kind: str, thing: Any = None) -> int:
        number = next(self._numbers)
        self.held[kind].add(number)
        self._things[number] = thing
        return number

    def _cuInit(self, flags: int) -> tuple[Any, ...]:
        return ()

    def _cuDriverGetVersion(self) -> tuple[Any, ...]:
        return (self.version,)

    def _cuDeviceGet(self, ordinal: int) -> tuple[Any, ...]:
        self.ordinal = ordinal
        return (ordinal,)

    def _cuDeviceGetCount(self) -> tuple[Any, ...]:
        return (1 + len(self.others),)

    def _cuDeviceGetName(self, size: int, device: int) -> tuple[Any, ...]:
        return (b"NVIDIA Fake 100\0\0\0",)

    def _cuDeviceGetAttribute(self, what: Any, device: int) -> tuple[Any, ...]:
        major, minor = self.others.get(device, self.capability)
        known = {"COMPUTE_CAPABILITY_MAJOR": major, "COMPUTE_CAPABILITY_MINOR": minor}
        known["MULTIPROCESSOR_COUNT"] = 132
        return (known[what.name.removeprefix("CU_DEVICE_ATTRIBUTE_")],)

    def _cuGetErrorName(self, status: Any) -> tuple[Any, ...]:
        return (self._real.CUresult(int(status)).name.encode(),)

    def _cuGetErrorString(self, status: Any) -> tuple[Any, ...]:
        return (f"code {int(status)} in words".encode(),)

    def _cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any, ...]:
        self.retained += 1
        return (77,)

    def _cuDevicePrimaryCtxRelease(self, device: int) -> tuple[Any, ...]:
        self.retained -= 1
        return ()

    def _cuDevicePrimaryCtxReset(self, device: int) -> tuple[Any, ...]:
        self.resets += 1
        return ()

    def _cuCtxSetCurrent(self, context: int) -> tuple[Any, ...]:
        assert context == 77
        self._current.context = context
        return ()

    def _cuStreamCreate(self, flags: Any) -> tuple[Any, ...]:
        return (self._real.CUstream(5),)

    def _cuStreamDestroy(self, stream: Any) -> tuple[Any, ...]:
        self._capture = None
        return ()

    def _cuStreamQuery(self, stream: Any) -> tuple[Any, ...]:
        self.gpu.wait(self.gpu.mark())
        return ()

    def _cuMemGetInfo(self) -> tuple[Any, ...]:
        return (self.gpu.free, 1 << 31)

    def _cuMemAlloc(self, size: int) -> tuple[Any, ...]:
        address = self.gpu.allocate(size)
        self.held["memory"].add(address)
        return (self._real.CUdeviceptr(address),)

    def _cuMemFree(self, address: int) -> tuple[Any, ...]:
        self.held["memory"].remove(address)
        return ()

    def _cuMemHostRegister(self, at: int, size: int, flags: int) -> tuple[Any, ...]:
        assert at % 4096 == size % 4096 == 0
        assert not any(a < at + size and at < a + s for a, s in self._locked.items())
        self._locked[at] = size
        self.held["locked"].add(at)
        return ()

    def _cuMemHostUnregister(self, at: int) -> tuple[Any, ...]:
        del self._locked[at]
        self.held["locked"].remove(at)
        return ()

    def _host(self, at: int, size: int) -> Any:
        assert any(a <= at and at + size <= a + s for a, s in self._locked.items()), "memory that is not locked"
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(at)) if size else np.empty(0, np.uint8)

    def _cuMemsetD8Async(self, address: int, byte: int, size: int, stream: Any) -> tuple[Any, ...]:
        self.gpu.fill(Address(address), size, byte)
        return ()

    def _cuMemcpyHtoDAsync(self, address: int, at: int, size: int, stream: Any) -> tuple[Any, ...]:
        self.gpu.upload(Address(address), self._host(at, size))
        return ()

    def _cuMemcpyDtoHAsync(self, at: int, address: int, size: int, stream: Any) -> tuple[Any, ...]:
        self.gpu.download(Address(address), self._host(at, size))
        return ()

    def _cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:
        return (self._new("modules", image),)

    def _cuModuleUnload(self, module: int) -> tuple[Any, ...]:
        self.held["modules"].remove(module)
        return ()

    def _cuModuleGetFunction(self, module: int, name: bytes) -> tuple[Any, ...]:
        return ((self._things[module], name.decode()),)

    def _cuFuncSetAttribute(self, kernel: Any, what: Any, value: int) -> tuple[Any, ...]:
        assert what.name == "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES"
        assert value > 48 << 10
        return ()

    def _cuStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[Any, ...]:
        assert self._capture is None
        self._capture = []
        return ()

    def _cuLaunchKernelEx(self, config: Any, kernel: Any, parameters: int, extra: int) -> tuple[Any, ...]:
        assert self._capture is not None
        places = (ctypes.c_void_p * 2).from_address(parameters)
        arguments = tuple(Address(ctypes.c_uint64.from_address(place).value) for place in places)
        overlaps = config.numAttrs == 1 and bool(config.attrs[0].value.programmaticStreamSerializationAllowed)
        assert overlaps or config.numAttrs == 0
        assert (config.gridDimZ, config.blockDimY, config.blockDimZ) == (1, 1, 1)
        grid = config.gridDimX, config.gridDimY
        launch = Resolved(kernel[1], grid, config.blockDimX, config.sharedMemBytes, arguments)
        self._capture.append((launch, overlaps))
        return ()

    def _cuStreamEndCapture(self, stream: Any) -> tuple[Any, ...]:
        assert self._capture is not None
        drawn, self._capture = self._capture, None
        return (self._new("graphs", drawn),)

    def _cuGraphGetEdges(self, graph: int, count: int = 0) -> tuple[Any, ...]:
        edges: list[Any] = []
        for _, overlaps in self._things[graph][1:]:
            edge = self._real.CUgraphEdgeData()
            kind = self._real.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC
            edge.type = int(kind) if overlaps and self.programmatic else 0
            edges.append(edge)
        assert count in (0, len(edges))
        return (None, None, edges if count else [], len(edges))

    def _cuGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return (self._new("graphs", [launch for launch, _ in self._things[graph]]),)

    def _cuGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        self.held["graphs"].remove(graph)
        return ()

    def _cuGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:
        self.held["graphs"].remove(graph)
        return ()

    def _cuGraphUpload(self, graph: int, stream: Any) -> tuple[Any, ...]:
        assert graph in self.held["graphs"]
        return ()

    def _cuGraphLaunch(self, graph: int, stream: Any) -> tuple[Any, ...]:
        assert graph in self.held["graphs"]
        self.gpu.run(self._things[graph])
        return ()

    def _cuEventCreate(self, flags: Any) -> tuple[Any, ...]:
        return (self._new("events"),)

    def _cuEventDestroy(self, event: int) -> tuple[Any, ...]:
        self.held["events"].remove(event)
        return ()

    def _cuEventRecord(self, event: int, stream: Any) -> tuple[Any, ...]:
        self._things[event] = self.gpu.mark()
        return ()

    def _cuEventRecordWithFlags(self, event: int, stream: Any, flags: Any) -> tuple[Any, ...]:
        assert self._capture is not None
        assert flags == self._real.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL
        assert event in self.held["events"]
        self._things[event] = len(self._capture)  # launches ahead of it
        return ()

    def _cuEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        assert self.gpu.waiting == 0, "the graph has not been waited for"
        return (0.25 * (self._things[end] - self._things[start]),)  # milliseconds

    def _cuEventQuery(self, event: int) -> tuple[Any, ...]:
        self.gpu.wait(self._things[event])
        return ()


def play_gpu(monkeypatch: pytest.MonkeyPatch, **choices: Any) -> FakeCuda:
    """A GPU for ``load(device="cuda")`` to find; what is compiled for it is the kernels' names."""
    from graphllm.compiler import link_cuda
    from graphllm.compiler.nvrtc.cubin import Cubin

    cuda = FakeCuda(**choices)

    def built(kernels: Any, archs: Any, say: Any = None) -> dict[tuple[str, str], Cubin]:
        return {(k.name, a): Cubin(k.name, a, k.name.encode(), "") for k in kernels for a in archs}

    monkeypatch.setattr(link_cuda, "driver_calls", lambda: Calls(cuda))
    monkeypatch.setattr(link_cuda, "built", built)
    return cuda
