"""What the target cuda needs: the driver, NVRTC, and the bindings of both."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Final

from graphllm.errors import DeviceError
from graphllm.measure.doctor.finding import Finding
from graphllm.measure.doctor.machine import installed
from graphllm.view.units import bytes_text

_MOST_GPUS: Final = 16
_PIP: Final = "pip install 'graphllm[cuda]'"


def cuda_backend() -> list[Finding]:
    """Bindings, NVRTC, driver, and the GPUs that it has."""
    out: list[Finding] = []
    for what, names in (("bindings", ("cuda-python",)), ("NVRTC", ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"))):
        found = next((f"{name} {v}" for name in names if (v := installed(name))), "")
        out.append(Finding(what, found) if found else Finding(what, f"no {names[0]}", "absent", _PIP))
    out.append(_driver())
    return [*out, *_gpus()] if out[-1].state == "ok" else out


def _gpus() -> list[Finding]:
    """Every GPU that this process sees, and what it has free."""
    from graphllm.runtime.cuda.calls import driver_calls
    from graphllm.runtime.cuda.gpu import Gpu

    out: list[Finding] = []
    try:
        for number in range(_MOST_GPUS):
            gpu = Gpu(driver_calls(), number)
            try:
                out.append(
                    Finding(f"cuda:{number}", f"{gpu.what}, kernels for {gpu.arch}, {bytes_text(gpu.room())} free")
                )
            finally:
                gpu.close()
    except DeviceError as error:
        if not out:
            out.append(Finding("cuda:0", str(error), "broken"))
    return out


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
