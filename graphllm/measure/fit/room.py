"""How much memory a device has free now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from graphllm.errors import GraphLLMError
from graphllm.runtime.memory import available_bytes


def room_of(device: str, number: int = 0) -> int:
    """Bytes that are free on a device, the ``number``-th where there are several.

    Raises:
        GraphLLMError: the system does not say, or there is no such device. DeviceError where it cannot be asked.
    """
    ask = _ROOMS.get(device)
    found = ask(number) if ask is not None else None
    if found is None:
        raise GraphLLMError(f"device {device}: does not say how much memory is free; give it with --memory")
    return found


def _host(number: int) -> int | None:
    return available_bytes() if number == 0 else None


def _gpu(number: int) -> int | None:
    """What the GPU has free, less what the driver will take for kernels and graphs. Raises DeviceError."""
    from graphllm.runtime.cuda.calls import driver_calls
    from graphllm.runtime.cuda.gpu import Gpu
    from graphllm.runtime.cuda.places import SPARE

    gpu = Gpu(driver_calls(), number)
    try:
        return max(0, gpu.room() - SPARE)
    finally:
        gpu.close()


_ROOMS: Final[dict[str, Callable[[int], int | None]]] = {
    "cpu": _host,
    "numpy": _host,
    "cuda": _gpu,
    "cuda-sim": _host,
}
