"""What the target cuda needs: the driver, NVRTC, and the bindings of both."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Final

from graphllm.compiler.targets import BACKENDS
from graphllm.measure.doctor.finding import Finding
from graphllm.measure.doctor.machine import installed

_PIP: Final = "pip install 'graphllm[cuda]'"


def cuda_backend() -> list[Finding]:
    """Bindings, NVRTC, driver. Lines on the GPUs themselves belong after the driver's."""
    out: list[Finding] = []
    if "cuda" not in set[str](BACKENDS):
        out.append(Finding("target", "this version of graphllm has no target cuda", "absent"))
    for what, names in (("bindings", ("cuda-python",)), ("NVRTC", ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"))):
        found = next((f"{name} {v}" for name in names if (v := installed(name))), "")
        out.append(Finding(what, found) if found else Finding(what, f"no {names[0]}", "absent", _PIP))
    out.append(_driver())
    return out


def _driver() -> Finding:
    library = ctypes.util.find_library("cuda") or "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        version = ctypes.c_int(0)
        status = int(driver.cuDriverGetVersion(ctypes.byref(version)))
    except (OSError, AttributeError):
        return Finding("driver", "none: no NVIDIA driver on this machine", "absent")
    if status:
        return Finding("driver", f"{library} answers with error {status}", "broken")
    return Finding("driver", f"for CUDA {version.value // 1000}.{version.value % 1000 // 10}")
