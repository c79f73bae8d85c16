"""Calls of NVIDIA's driver, each checked: one that fails becomes a DeviceError that names it and the driver's code."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

from graphllm.errors import DeviceError

HOW_TO_GET_BINDINGS: Final = 'run `pip install "graphllm[cuda]"`'
OLDEST: Final = 13000  # of the driver: what the machine code of NVRTC 13 needs
_WHY: Final = {  # what a user can do about a code, or what it means where the driver's own words say less
    "CUDA_ERROR_NO_DEVICE": "no GPU is visible; is one there, and what does CUDA_VISIBLE_DEVICES say",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver's library and its kernel module are of different versions; reboot",
    "CUDA_ERROR_SYSTEM_NOT_READY": "the machine's GPU services are not running (fabric manager)",
    "CUDA_ERROR_NO_BINARY_FOR_GPU": "the machine code is for another GPU",
    "CUDA_ERROR_INVALID_IMAGE": "the machine code is damaged",
}
# After one of these nothing works any more, until the process lets go of the device.
_FATAL: Final = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        *("ILLEGAL_ADDRESS", "LAUNCH_TIMEOUT", "MISALIGNED_ADDRESS", "ILLEGAL_INSTRUCTION", "INVALID_PC"),
        *("HARDWARE_STACK_ERROR", "LAUNCH_FAILED", "ECC_UNCORRECTABLE", "INVALID_ADDRESS_SPACE", "ASSERT"),
        *("DEVICE_UNAVAILABLE", "CONTEXT_IS_DESTROYED", "UNKNOWN", "CONTAINED", "TENSOR_MEMORY_LEAK"),
        *("EXTERNAL_DEVICE", "NVLINK_UNCORRECTABLE"),
    )
)


class Calls:
    """The functions of ``cuda.bindings.driver``, or of a module that stands in for it.

    ``lost`` is what ended the device, '' while it lives; from then on every call raises it again.
    """

    def __init__(self, module: Any) -> None:
        self.types = module  # its structures and enumerations
        self.lost = ""

    def __call__(self, name: str, *arguments: Any) -> Any:
        """What the function returns beside its code: nothing, a value, or a tuple. Raises DeviceError."""
        if self.lost:
            raise DeviceError(self.lost)
        status, *values = getattr(self.types, name)(*arguments)
        if int(status) != 0:
            raise self.failure(name, status)
        return values[0] if len(values) == 1 else tuple(values)

    def failure(self, name: str, status: Any) -> DeviceError:
        """The error that a code means; remembers it where the device is lost."""
        code = self._said("cuGetErrorName", status) or f"error {int(status)}"
        why = _WHY.get(code) or self._said("cuGetErrorString", status)
        said = f"cuda: {name}: {code}{f'; {why}' if why else ''}"
        if code in _FATAL:
            self.lost = f"{said}; the device is lost: load the model again"
            said = self.lost
        return DeviceError(said)

    def quietly(self, name: str, *arguments: Any) -> None:
        """A call on the way out, when nobody can do anything about its failure."""
        getattr(self.types, name)(*arguments)

    def _said(self, name: str, status: Any) -> str:
        result, text = getattr(self.types, name)(status)
        return text.decode(errors="replace") if int(result) == 0 and text else ""


def driver_calls() -> Calls:
    """The driver of this machine, initialised.

    Raises:
        DeviceError: no bindings, no driver, one too old, or no GPU.
    """
    calls = Calls(_bindings())
    try:
        version = int(calls("cuDriverGetVersion"))
        if version < OLDEST:
            raise DeviceError(
                f"cuda: the driver is for CUDA {version // 1000}.{version % 1000 // 10}; expected "
                f"{OLDEST // 1000}.{OLDEST % 1000 // 10} or later: install driver 580 or later"
            )
        calls("cuInit", 0)
    except (RuntimeError, OSError) as error:  # the library cannot be loaded: classes of the bindings' own
        said = "" if "NotFound" in type(error).__name__ else f" that can be used ({' '.join(str(error).split())[:120]})"
        raise DeviceError(f"cuda: no NVIDIA driver on this machine{said}; run on --device cpu or cuda-sim") from None
    return calls


def _bindings() -> ModuleType:
    try:
        from cuda.bindings import driver  # pyright: ignore
    except ImportError:
        raise DeviceError(f"cuda: its Python bindings are not installed; {HOW_TO_GET_BINDINGS}") from None
    return driver  # pyright: ignore
