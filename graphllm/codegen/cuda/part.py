"""A kernel's launch while it is written: its text, and how it is cut into blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphllm.codegen.text import KernelText


@dataclass(slots=True)
class Part:
    """One launch of a kernel of the IR, which may need several.

    Attributes:
        grid: blocks along x and y; ``chunked`` where y is the number of chunks of keys, known from step to step.
        shared: bytes of shared memory of a block.
        header: the file of templates that the text calls.
        lone: blocks share the work by ``Step.share``, and wait before they do anything.
        scratch, counts: whether the kernel is given scratch memory, and a place for counters.
        early: identities of weights that are read before the kernel waits.
        moved: bytes read of some values, by their identity, where that is not all of them.
        cached: bytes of caches read for each position that a row sees.
        resident: blocks that a multiprocessor is to have registers for, 0 where that is left to the compiler.
    """

    stem: str
    text: KernelText
    grid: tuple[int, int]
    block: int
    shared: int
    header: str
    chunked: bool = False
    lone: bool = False
    scratch: bool = False
    counts: int = 0
    early: set[int] = field(default_factory=set[int])
    moved: dict[int, int] = field(default_factory=dict[int, int])
    cached: int = 0
    resident: int = 0

    @property
    def declared(self) -> list[str]:
        """The kernel's parameters, in order."""
        out = [p.declared for p in self.text.parameters]
        out += ["float* scratch"] * self.scratch + ["unsigned* counts"] * bool(self.counts)
        return [*out, "const int* words", *(f"int {name}" for name in self.text.numbers)]
