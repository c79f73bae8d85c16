"""What the target cuda needs: the driver, NVRTC, and the bindings of both."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Final

from graphllm.errors import DeviceError
from graphllm.measure.doctor.finding import Finding
from graphllm.measure.doctor.machine import installed
from graphllm.view.units import bytes_text

_PIP: Final = "pip install 'graphllm[cuda]'"


def cuda_backend() -> list[Finding]:
    """Bindings, NVRTC, driver, and the GPUs that it has."""
    out: list[Finding] = []
    for what, names in (("bindings", ("cuda-python",)), ("NVRTC", ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"))):
        found = next((f"{name} {v}" for name in names if (v := installed(name))), "")
        out.append(Finding(what, found) if found else Finding(what, f"no {names[0]}", "absent", _PIP))
    out.append(_driver())
    return [*out, *gpus()] if out[-1].state == "ok" else out


def gpus() -> list[Finding]:
    """Every GPU that this process sees, and what it has free; one that cannot be used does not hide the others."""
    from graphllm.runtime.cuda.calls import driver_calls

    try:
        count = int(driver_calls()("cuDeviceGetCount"))
    except DeviceError as error:
        return [Finding("GPUs", str(error), "broken")]
    return [_gpu(number) for number in range(count)]


def _gpu(number: int) -> Finding:
    from graphllm.runtime.cuda.calls import driver_calls
    from graphllm.runtime.cuda.gpu import Gpu

    what = f"cuda:{number}"
    try:
        gpu = Gpu(driver_calls(), number)
        try:
            memory = f"{bytes_text(gpu.room())} of {bytes_text(gpu.memory)}"
            return Finding(what, f"{gpu.what}, kernels for {gpu.arch}, {memory} free")
        finally:
            gpu.close()
    except DeviceError as error:
        return Finding(what, str(error), "broken")


def _driver() -> Finding:
    library = ctypes.util.find_library("cuda") or "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        version = ctypes.c_int(0)
        status = int(driver.cuDriverGetVersion(ctypes.byref(version)))
    except (OSError, AttributeError):
        fix = "where there is a GPU, install driver 580 or later; --device cuda-sim plays one"
        return Finding("driver", "none: no NVIDIA driver on this machine", "absent", fix)
    if status:
        return Finding("driver", f"{library} answers with error {status}", "broken")
    return Finding("driver", f"for CUDA {version.value // 1000}.{version.value % 1000 // 10}")
