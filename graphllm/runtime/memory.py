"""How much memory there is to take."""

from __future__ import annotations

import os
from pathlib import Path

_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own


def available_bytes(system: Path = _SYSTEM, group: Path = _GROUP) -> int | None:
    """Bytes the system can give without swapping, None where it does not say. A container's limit counts.

    Pages of files are not counted as taken: a container that has just read a model is full of them, and the system
    lets them go when it needs room.
    """
    found = [n * 1024 for n in (_number(system, "MemAvailable:"),) if n is not None]
    for limit, current, statistics in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        most, taken = _number(group / limit), _number(group / current)
        if most is not None and taken is not None:
            files = sum(_number(group / statistics, f"{kind}_file ") or 0 for kind in ("active", "inactive"))
            found.append(max(0, most - max(0, taken - files)))
    if not found and hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found) if found else None


def _number(file: Path, name: str = "") -> int | None:
    """The number on the line that starts with ``name``; None when there is none (a limit may read ``max``)."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        text = next(line for line in lines if line.startswith(name)).removeprefix(name).split()[0]
        return int(text) if text.isdigit() else None
    except (OSError, ValueError, StopIteration, IndexError):
        return None
