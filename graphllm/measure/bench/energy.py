"""Energy of the processor's packages, where the system lets it be read (Linux, RAPL; often root only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POWERCAP: Final = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class Reading:
    """Microjoules by domain, and where each begins again."""

    counts: Mapping[str, int]
    ranges: Mapping[str, int]

    def joules_since(self, earlier: Reading) -> float | None:
        """Joules between two readings, None where nothing can be read. A counter may have begun again once."""
        if not self.counts or self.counts.keys() != earlier.counts.keys():
            return None
        total = 0
        for name, count in self.counts.items():
            gone = count - earlier.counts[name]
            total += gone if gone >= 0 else gone + self.ranges[name]
        return total / 1e6


def read_energy(folder: Path = POWERCAP) -> Reading:
    """The counters of whole packages; what lies inside one (cores, memory of some machines) is in its own already."""
    counts: dict[str, int] = {}
    ranges: dict[str, int] = {}
    for domain in sorted(folder.glob("*:*")):
        if domain.name.count(":") != 1:
            continue
        try:
            count, most = (int((domain / name).read_text()) for name in ("energy_uj", "max_energy_range_uj"))
        except (OSError, ValueError):
            continue
        counts[domain.name], ranges[domain.name] = count, most
    return Reading(counts, ranges)
