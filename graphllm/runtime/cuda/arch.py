"""Architectures of NVIDIA GPUs that kernels are compiled for, and what fits on one.

Facts of NVIDIA's documentation: the CUDA C programming guide, table of technical specifications by compute capability.
Machine code runs on its own architecture and on later ones of the same generation; that of ``sm_90a`` on 9.0 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from graphllm.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one architecture has room for.

    Attributes:
        shared: bytes of shared memory that one block may ask for.
        shared_sm: bytes of it in a multiprocessor; each block takes 1024 more than it asks for from sm_80 on.
        threads_sm: threads that a multiprocessor holds.
        blocks_sm: blocks that it holds.
        overlaps: whether a kernel may start before the one ahead of it has ended.
        sms: multiprocessors of its usual largest card, for reports where there is no card.
    """

    shared: int
    shared_sm: int
    threads_sm: int
    blocks_sm: int
    overlaps: bool
    sms: int

    @property
    def shared_reserved(self) -> int:
        """Bytes of shared memory that each block takes beyond what it asks for."""
        return 1024 if self.shared_sm > 65536 else 0


THREADS: Final = 1024  # of a block, on every architecture
REGISTERS_SM: Final = 65536  # 32-bit registers of a multiprocessor, on every architecture here
GRID: Final = ((1 << 31) - 1, (1 << 16) - 1)  # blocks along x and y

LIMITS: Final = {
    "sm_75": Limits(64 << 10, 64 << 10, 1024, 16, False, 72),
    "sm_80": Limits(163 << 10, 164 << 10, 2048, 32, False, 108),
    "sm_86": Limits(99 << 10, 100 << 10, 1536, 16, False, 84),
    "sm_89": Limits(99 << 10, 100 << 10, 1536, 24, False, 128),
    "sm_90": Limits(227 << 10, 228 << 10, 2048, 32, True, 132),
    "sm_90a": Limits(227 << 10, 228 << 10, 2048, 32, True, 132),
    "sm_100": Limits(227 << 10, 228 << 10, 2048, 32, True, 148),
    "sm_120": Limits(99 << 10, 100 << 10, 1536, 24, True, 170),
}
ARCHS: Final = tuple(LIMITS)


def check_archs(names: str) -> tuple[str, ...]:
    """The architectures that ``names`` lists with commas, each once. Raises DeviceError for one that we do not know."""
    found = tuple(dict.fromkeys(word.strip() for word in names.split(",")))
    for word in found:
        if word not in LIMITS:
            raise DeviceError(f"arch: {word[:40]!r}; expected some of {', '.join(ARCHS)}")
    return found


def arch_for(major: int, minor: int) -> str:
    """What to compile for a card of that compute capability: the latest that it runs.

    Raises:
        DeviceError: it is older or newer than all of ours.
    """
    fitting = [name for name in ARCHS if runs_on(name, major, minor) and not name.endswith("a")]
    if not fitting:
        known = ", ".join(name for name in ARCHS if not name.endswith("a"))
        raise DeviceError(f"GPU of compute capability {major}.{minor}: not supported; kernels are made for {known}")
    return fitting[-1]


def runs_on(arch: str, major: int, minor: int) -> bool:
    """Whether machine code for ``arch`` runs on a card of that compute capability."""
    number = int(arch.removeprefix("sm_").rstrip("a"))
    its_major, its_minor = divmod(number, 10)
    if arch.endswith("a"):
        return (major, minor) == (its_major, its_minor)
    return its_major == major and its_minor <= minor
