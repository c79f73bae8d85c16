"""A real GPU: the driver API behind the few methods that the CUDA device asks for.

Host memory is NumPy's own, locked in place for the GPU, so that arrays over it stay good when the device is gone.
Launches are captured into graphs; from sm_90 on each may start before the one ahead of it has ended, and the graph is
asked afterwards whether it says so.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from graphllm.errors import DeviceError
from graphllm.plan.place import size_text
from graphllm.runtime.cuda.arch import LIMITS, arch_for, runs_on
from graphllm.runtime.cuda.calls import Calls
from graphllm.runtime.cuda.driver import Address, Bytes, Resolved

_PAGE: Final = 4096
_SHARED_BY_DEFAULT: Final = 48 << 10  # bytes of shared memory that a launch has without asking
_SPINS: Final = 4000  # questions in a row whether a mark is reached, about the length of a step, before we sleep
_NAP: Final = 50e-6  # seconds
_PATIENCE: Final = 10.0  # seconds that closing waits for what still runs


class Gpu:
    """GPU ``ordinal`` of those that this process sees; CUDA_VISIBLE_DEVICES says which.

    Attributes:
        capability: major and minor.
        sms: how many multiprocessors it has.
        overlaps: whether launches of graphs may start before those ahead of them have ended.

    Raises:
        DeviceError: it cannot be had, or is one that kernels are not made for.
    """

    name = "cuda"

    def __init__(self, calls: Calls, ordinal: int = 0) -> None:
        self._calls = calls
        self._device = calls("cuDeviceGet", ordinal)
        major, minor = (self._attribute(f"COMPUTE_CAPABILITY_{x}") for x in ("MAJOR", "MINOR"))
        self.capability = major, minor
        self.sms = self._attribute("MULTIPROCESSOR_COUNT")
        name = calls("cuDeviceGetName", 128, self._device).split(b"\0")[0].decode(errors="replace")
        version = int(calls("cuDriverGetVersion"))
        self.what = f"{name}, compute capability {major}.{minor}, CUDA {version // 1000}.{version % 1000 // 10}"
        self.arch = arch_for(major, minor)
        self.overlaps = LIMITS[self.arch].overlaps
        self._threads = threading.local()  # whose calls are told of the context
        self._context = calls("cuDevicePrimaryCtxRetain", self._device)
        self._blocks: list[Address] = []
        self._locked: list[Bytes] = []
        self._modules: list[Any] = []
        self._kernels: dict[str, Any] = {}
        self._shared: dict[str, int] = {}
        self._graphs: list[Any] = []
        self._events: list[Any] = []
        self._free: list[Any] = []  # events that no mark has
        self._closed = False
        try:
            self._enter()
            self._stream = calls("cuStreamCreate", self._flag("CUstream_flags", "CU_STREAM_NON_BLOCKING"))
        except DeviceError:
            calls.quietly("cuDevicePrimaryCtxRelease", self._device)
            raise

    def load(self, kernels: Mapping[str, bytes], archs: Mapping[str, str]) -> None:
        """Take kernels as machine code, by name, with the architecture of each. Raises DeviceError."""
        self._enter()
        for name, code in kernels.items():
            if not runs_on(archs[name], *self.capability):
                raise DeviceError(f"cuda: kernel {name} is for {archs[name]}; expected one for {self.what}")
            try:
                module = self._calls("cuModuleLoadData", code)
                self._modules.append(module)
                self._kernels[name] = self._calls("cuModuleGetFunction", module, name.encode())
            except DeviceError as error:
                raise DeviceError(f"{error} (kernel {name})") from None

    def room(self) -> int:
        self._enter()
        free, _ = self._calls("cuMemGetInfo")
        return int(free)

    @property
    def memory(self) -> int:
        """Bytes that it has in all."""
        self._enter()
        _, size = self._calls("cuMemGetInfo")
        return int(size)

    def allocate(self, size: int) -> Address:
        self._enter()
        try:
            address = Address(int(self._calls("cuMemAlloc", size)))
        except DeviceError as error:
            if "OUT_OF_MEMORY" not in str(error):
                raise
            raise DeviceError(
                f"memory of {self.what}: no {size_text(size)} in one piece; {size_text(self.room())} are free"
            ) from None
        self._blocks.append(address)
        return address

    def host(self, size: int) -> Bytes:
        self._enter()
        length = -(-max(1, size) // _PAGE) * _PAGE
        room = np.zeros(length + _PAGE, np.uint8)
        start = -room.ctypes.data % _PAGE
        pages = room[start : start + length]
        self._calls("cuMemHostRegister", pages.ctypes.data, length, 0)
        self._locked.append(pages)
        return pages[:size]

    def fill(self, address: Address, size: int, byte: int) -> None:
        self._enter()
        self._calls("cuMemsetD8Async", address, byte, size, self._stream)

    def upload(self, address: Address, data: Bytes) -> None:
        self._enter()
        self._calls("cuMemcpyHtoDAsync", address, data.ctypes.data, data.size, self._stream)

    def download(self, address: Address, data: Bytes) -> None:
        self._enter()
        self._calls("cuMemcpyDtoHAsync", data.ctypes.data, address, data.size, self._stream)

    def graph(self, launches: Sequence[Resolved]) -> Any:
        return self._captured(launches, ())

    def timed(self, launches: Sequence[Resolved]) -> _Timed:
        # Events are nodes of the graph: between launches there is no host, only the few hundred ns that one takes.
        self._enter()
        flags = self._flag("CUevent_flags", "CU_EVENT_DEFAULT")
        events = [self._calls("cuEventCreate", flags) for _ in range(len(launches) + 1)]
        self._events += events
        return _Timed(self._captured(launches, events), events)

    def times(self, graph: _Timed) -> list[int]:
        self._enter()
        first, *ends = graph.events
        return [round(1e6 * self._calls("cuEventElapsedTime", first, end)) for end in ends]

    def _captured(self, launches: Sequence[Resolved], events: Sequence[Any]) -> Any:
        """Launches as a graph; with ``events`` one is recorded ahead of the first and behind each, and none overlap."""
        self._enter()
        for launch in launches:
            self._let_share(launch)
        overlaps = self.overlaps and not events
        mode = self._flag("CUstreamCaptureMode", "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL")
        self._calls("cuStreamBeginCapture", self._stream, mode)
        try:
            for event in events[:1]:
                self._record(event)
            for number, launch in enumerate(launches):
                self._launch(launch, overlaps and number > 0)
                for event in events[number + 1 : number + 2]:
                    self._record(event)
        except BaseException:
            self._calls.quietly("cuStreamEndCapture", self._stream)
            raise
        drawn = self._calls("cuStreamEndCapture", self._stream)
        try:
            if overlaps:
                self.overlaps = self._overlapping(drawn) == len(launches) - 1
            graph = self._calls("cuGraphInstantiate", drawn, 0)
        finally:
            self._calls.quietly("cuGraphDestroy", drawn)
        self._graphs.append(graph)
        self._calls("cuGraphUpload", graph, self._stream)
        return graph

    def run(self, graph: Any) -> None:
        self._enter()
        self._calls("cuGraphLaunch", graph.graph if isinstance(graph, _Timed) else graph, self._stream)

    def mark(self) -> _Mark:
        self._enter()
        if not self._free:
            event = self._calls("cuEventCreate", self._flag("CUevent_flags", "CU_EVENT_DISABLE_TIMING"))
            self._events.append(event)
            self._free.append(event)
        event = self._free.pop()
        mark = _Mark(event, self._free)
        self._calls("cuEventRecord", event, self._stream)
        return mark

    def wait(self, mark: _Mark) -> None:
        # Asked again and again rather than waited for in the driver, where no signal would reach us.
        self._enter()
        calls, query = self._calls, self._calls.types.cuEventQuery
        not_ready = int(calls.types.CUresult.CUDA_ERROR_NOT_READY)
        spins = 0
        while True:
            if calls.lost:
                raise DeviceError(calls.lost)
            (status,) = query(mark.event)
            if int(status) == 0:
                return
            if int(status) != not_ready:
                raise calls.failure("cuEventQuery", status)
            spins += 1
            if spins > _SPINS:
                time.sleep(_NAP)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        calls = self._calls
        calls.quietly("cuCtxSetCurrent", self._context)
        patience = time.monotonic() + _PATIENCE
        (status,) = calls.types.cuStreamQuery(self._stream)
        while int(status) == int(calls.types.CUresult.CUDA_ERROR_NOT_READY) and time.monotonic() < patience:
            time.sleep(_NAP)
            (status,) = calls.types.cuStreamQuery(self._stream)
        for pages in self._locked:
            calls.quietly("cuMemHostUnregister", pages.ctypes.data)
        for name, held in (
            ("cuGraphExecDestroy", self._graphs),
            ("cuEventDestroy", self._events),
            ("cuMemFree", self._blocks),
            ("cuModuleUnload", self._modules),
            ("cuStreamDestroy", [self._stream]),
        ):
            for one in held:
                calls.quietly(name, one)
        calls.quietly("cuDevicePrimaryCtxRelease", self._device)
        if calls.lost:  # so that this process may begin again
            calls.quietly("cuDevicePrimaryCtxReset", self._device)
        calls.lost = calls.lost or "cuda: the device is closed"

    def _enter(self) -> None:
        """Make the device current for the calling thread, once."""
        if not getattr(self._threads, "told", False):
            self._calls("cuCtxSetCurrent", self._context)
            self._threads.told = True

    def _launch(self, launch: Resolved, overlaps: bool) -> None:
        types = self._calls.types
        config = types.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = (*launch.grid, 1)
        config.blockDimX, config.blockDimY, config.blockDimZ = launch.block, 1, 1
        config.sharedMemBytes, config.hStream = launch.shared, self._stream
        config.numAttrs = 0
        if overlaps:
            attribute = types.CUlaunchAttribute()
            attribute.id = self._flag("CUlaunchAttributeID", "CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION")
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        given = (*launch.arguments, *launch.numbers)  # an int is the first half of its word
        values = (ctypes.c_uint64 * max(1, len(given)))(*given)
        base = ctypes.addressof(values)
        places = (ctypes.c_void_p * len(values))(*(base + 8 * i for i in range(len(values))))
        self._calls("cuLaunchKernelEx", config, self._kernel(launch), ctypes.addressof(places), 0)

    def _record(self, event: Any) -> None:
        """Draw an event into the graph that is being captured."""
        external = self._flag("CUevent_record_flags", "CU_EVENT_RECORD_EXTERNAL")
        self._calls("cuEventRecordWithFlags", event, self._stream, external)

    def _kernel(self, launch: Resolved) -> Any:
        kernel = self._kernels.get(launch.kernel)
        if kernel is None:
            raise DeviceError(f"cuda: kernel {launch.kernel}: not among those that were loaded")
        return kernel

    def _let_share(self, launch: Resolved) -> None:
        """Shared memory beyond the usual must be asked for, kernel by kernel."""
        if launch.shared <= max(_SHARED_BY_DEFAULT, self._shared.get(launch.kernel, 0)):
            return
        what = self._flag("CUfunction_attribute", "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES")
        self._calls("cuFuncSetAttribute", self._kernel(launch), what, launch.shared)
        self._shared[launch.kernel] = launch.shared

    def _overlapping(self, drawn: Any) -> int:
        """How many launches of a captured graph may start before the one ahead has ended: what became of our wish."""
        *_, count = self._calls("cuGraphGetEdges", drawn, 0)
        if not count:
            return 0
        _, _, edges, _ = self._calls("cuGraphGetEdges", drawn, count)
        wanted = self._flag("CUgraphDependencyType", "CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC")
        kinds = (edge.type if isinstance(edge.type, int) else edge.type[0] for edge in edges)
        return sum(kind == int(wanted) for kind in kinds)

    def _attribute(self, name: str) -> int:
        what = self._flag("CUdevice_attribute", f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._calls("cuDeviceGetAttribute", what, self._device))

    def _flag(self, kind: str, name: str) -> Any:
        return getattr(getattr(self._calls.types, kind), name)


@dataclass(frozen=True, slots=True)
class _Timed:
    """A graph with an event ahead of its first launch, and one behind each."""

    graph: Any
    events: list[Any]


class _Mark:
    """An event behind some work; another mark takes it when nobody holds this one any more."""

    __slots__ = ("_free", "event")

    def __init__(self, event: Any, free: list[Any]) -> None:
        self.event, self._free = event, free

    def __del__(self) -> None:
        self._free.append(self.event)
