"""What the kernels of the reference shapes take of a GPU, by kind and architecture: a table that tests hold.

Kernels of one kind have one name but for their number; a cell tells the least and the most of them. Registers are
those of one version of NVRTC, which the table's first line names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.cuda_shapes import Shared
from graphllm.compiler.nvrtc.cubin import Resources

_KERNELS, _SHARED = "kernels", "shared"  # columns that no architecture has a say in


@dataclass(frozen=True, slots=True)
class ResourceTable:
    """Cells by column, then by kind; ``version`` is NVRTC's, as X.Y."""

    version: str
    columns: Mapping[str, Mapping[str, str]]

    def text(self) -> str:
        """The table as it is kept in a file."""
        rows = [["kind", *self.columns]]
        rows += [[kind, *(c[kind] for c in self.columns.values())] for kind in self.columns[_KERNELS]]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"NVRTC {self.version}", *lines, ""])


def parse_table(text: str) -> ResourceTable:
    """What ``ResourceTable.text`` gave."""
    version, head, *rows = (line.split() for line in text.splitlines())
    columns = {name: {row[0]: row[i] for row in rows} for i, name in enumerate(head) if i}
    return ResourceTable(version[-1], columns)


def launch_columns(kernels: Sequence[Shared]) -> dict[str, dict[str, str]]:
    """How many kernels of each kind there are, and the bytes of shared memory that their launches ask for."""
    kinds = _kinds(kernels)
    asked = {kind: [launch.shared for k in some for launch in k.launches()] for kind, some in kinds.items()}
    return {
        _KERNELS: {kind: str(len(some)) for kind, some in kinds.items()},
        _SHARED: {kind: _range(sizes) for kind, sizes in asked.items()},
    }


def register_column(kernels: Sequence[Shared], took: Mapping[str, Resources]) -> dict[str, str]:
    """Registers of a thread for one architecture, of kernels by their names."""
    kinds = _kinds(kernels)
    return {kind: _range([took[k.kernel.name].registers for k in some]) for kind, some in kinds.items()}


def _kinds(kernels: Sequence[Shared]) -> dict[str, list[Shared]]:
    out: dict[str, list[Shared]] = {}
    for kernel in kernels:
        out.setdefault(kernel.kernel.name.rpartition("_")[0], []).append(kernel)
    return out


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
