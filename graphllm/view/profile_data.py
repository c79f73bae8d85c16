"""What profiling a step leaves behind, as plain data: ``measure.profile`` makes it, pictures and reports show it.

JSON, ``version`` 1; it grows when a field changes or goes, fields may be added. Times are nanoseconds since the step
began, of the step whose length is the median of those measured.

    version     1
    device      "cpu", "numpy" …            threads     of the device
    function    "decode" …                  position    tokens in the cache before the step
    rows        live rows of the step       steps       how many were measured
    step_ns     the step, as its caller sees it
    read_rate   bytes a second that this machine reads, measured; 0 where it was not
    flop_rate   floating point operations a second that it does, measured; 0 where it was not
    kernels     [{index, name, template, layer, ops, start_ns, ns, spread_ns, bytes, flops, part, code, op_shares}]
    spans       [{kernel, thread, start_ns, ns, part}]
    plain_ns    the same step in the code that plans run as, the median; 0 where it was not measured
    note        what must be known of the times, '' for nothing

``index`` is a kernel's place in its function's operations, ``name`` its first result's; ``ns`` runs from when the first
thread begins it to when the last is done, ``spread_ns`` is between the quartiles of all steps measured. ``bytes`` are
those it cannot do without: weights, activations, and the positions of the cache that it sees. A span is what one thread
did of a kernel. ``op_shares`` estimates the part of a kernel's time that each of its ``ops`` takes, by what it would
take at least by itself: nobody can look into a fused kernel.

On a GPU what is timed are launches: ``code`` is the kernel that is launched, ``part`` tells launches of one index apart
(0, 1, …), ``bytes`` are what the launch plan counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, cast

from graphllm.errors import GraphLLMError

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One kernel of the step. ``layer`` is -1 outside all layers; ``ops`` are its operations by name."""

    index: int
    name: str
    template: str
    layer: int
    ops: tuple[str, ...]
    start_ns: int
    ns: int
    spread_ns: int
    bytes: int
    flops: int
    part: int = 0
    code: str = ""
    op_shares: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """What one thread did of one kernel (its ``index`` and ``part``)."""

    kernel: int
    thread: int
    start_ns: int
    ns: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """A step, kernel by kernel. See the module's text for the fields."""

    device: str
    threads: int
    function: str
    rows: int
    position: int
    steps: int
    step_ns: int
    read_rate: float
    flop_rate: float
    kernels: tuple[KernelTime, ...]
    spans: tuple[Span, ...]
    plain_ns: int = 0
    note: str = ""

    @property
    def outside_ns(self) -> int:
        """Time of the step that no kernel accounts for: calling it, waiting for threads, copying inputs."""
        return max(0, self.step_ns - sum(k.ns for k in self.kernels))

    def floor_ns(self, kernel: KernelTime) -> float:
        """The least time a kernel could take by the machine's measured rates; 0 where they were not measured."""
        moving = kernel.bytes / self.read_rate if self.read_rate else 0.0
        computing = kernel.flops / self.flop_rate if self.flop_rate else 0.0
        return 1e9 * max(moving, computing)

    def roofline(self, kernel: KernelTime) -> float:
        """Share of the roofline: the least time over the time taken."""
        return self.floor_ns(kernel) / kernel.ns if kernel.ns else 0.0

    def as_json(self) -> dict[str, Any]:
        """The profile as dictionaries, lists, strings and numbers."""
        return {"version": VERSION, **asdict(self)}


def profile_from_json(data: object, where: str) -> Profile:
    """A profile read back. Raises GraphLLMError ``where: …`` for what is none."""
    record = _object(data, where)
    version = record.get("version")
    if version != VERSION:
        raise GraphLLMError(f"{where}: expected a profile of version {VERSION}, got {str(version)[:20]!r}")
    parts: dict[str, tuple[object, ...]] = {}
    for name, kind in (("kernels", KernelTime), ("spans", Span)):
        at = f"{where}: {name}"
        parts[name] = tuple(_read(kind, item, at) for item in _list(record.get(name), at))
    return _read(Profile, {**record, **parts}, where)


def _read(cls: type[Any], data: object, where: str) -> Any:
    record = _object(data, where)
    values: dict[str, Any] = {}
    for field in fields(cls):
        value = record.get(field.name, field.default)
        match field.type:
            case "int" if type(value) is int:
                pass
            case "float" if type(value) in (int, float):
                value = float(cast(float, value))
            case "str" if isinstance(value, str):
                pass
            case "tuple[str, ...]" if isinstance(value, list | tuple):
                value = tuple(map(str, cast("list[object]", value)))
            case "tuple[float, ...]" if isinstance(value, list | tuple):
                numbers = cast("list[object]", value)
                if not all(type(x) in (int, float) for x in numbers):
                    raise GraphLLMError(f"{where}: {field.name}: expected numbers, got {str(numbers)[:40]!r}")
                value = tuple(float(cast(float, x)) for x in numbers)
            case "tuple[KernelTime, ...]" | "tuple[Span, ...]" if isinstance(value, tuple):
                pass
            case _:
                raise GraphLLMError(f"{where}: {field.name}: expected {field.type}, got {str(value)[:40]!r}")
        values[field.name] = value
    return cls(**values)


def _object(data: object, where: str) -> Mapping[str, object]:
    if not isinstance(data, dict):
        raise GraphLLMError(f"{where}: expected an object, got {str(data)[:40]!r}")
    return cast("dict[str, object]", data)


def _list(data: object, where: str) -> list[object]:
    if not isinstance(data, list):
        raise GraphLLMError(f"{where}: expected a list, got {str(data)[:40]!r}")
    return cast("list[object]", data)
