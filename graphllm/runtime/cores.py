"""How many threads compute: one for each physical core that this process may use, and never more than run at once."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_GROUP = Path("/sys/fs/cgroup")


def logical_cores(group: Path = _GROUP) -> int:
    """Processors within the process's affinity, and no more than a container's share."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, _share(group) or usable))


def physical_cores(topology: Path = _TOPOLOGY, group: Path = _GROUP) -> int:
    """Cores within the process's affinity, siblings of one core counted once, and no more than a container's share."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_siblings(topology, cpu) for cpu in usable}
    return max(1, min(len(cores), _share(group) or len(cores)))


def _siblings(topology: Path, cpu: int) -> str:
    try:
        return (topology / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return str(cpu)


def _share(group: Path) -> int | None:
    """Whole CPUs that a container is given, None where it may use all."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return None
