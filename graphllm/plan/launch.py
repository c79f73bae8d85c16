"""Launches of a compiled plan on a GPU: what the code generator hands to the device, and anyone may read.

A *program* is kernels, each a translation unit of its own, and for every function of the plan the list of their
launches in stream order. Arguments are addresses in five memories, all allocated once:

    weight i   a stored weight, where it was uploaded
    state i    a cache
    arena      activations
    step       the inputs of a step in 32-bit words: a header (``HEADER``), then id, position and slot of each row, and
               where the device chooses tokens a table each of tokens, draws and settings (``SETTINGS``), by row
    memory     what kernels keep from launch to launch: counters, all zero when a step begins and when it ends

A launch whose ``chunked`` is set has as many blocks along y as the step has chunks of keys, rounded up to one of the
function's ``buckets``: each bucket is a graph of its own. The rest of a launch never changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Where = Literal["weight", "state", "arena", "step", "memory"]

HEADER: Final = {  # words of a step's header, by name
    "live": 0,  # rows that are there
    "row": 1,  # the row whose logits are asked for, of a prompt
}
HEADER_WORDS: Final = 4
ROW_WORDS: Final = 3  # id, position, slot
SETTINGS: Final = {  # words that say how a row's token is chosen, by name
    "top_k": 0,  # 0 for no limit
    "temperature": 1,  # f32; 0 chooses the likeliest
    "top_p": 2,  # f32
    "min_p": 3,  # f32
    "allowed": 4,  # ids from here on are never chosen; 0 for no limit
    "advance": 5,  # 1 where the token that is chosen becomes the row of the next step, one position on
}
CHOICE_WORDS: Final = 1 + 2 + len(SETTINGS)  # of each row: a token, a draw, settings


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address that a kernel is given: ``offset`` bytes into a memory, or into number ``index`` of several."""

    where: Where
    index: int = 0
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Access:
    """Bytes [offset, offset + size) of a memory that a launch may read, or write.

    ``moved`` are the bytes that it does read or write there at a full step: fewer than ``size`` where only some rows of
    a table are wanted. ``early``: read before the launch waits for those ahead of it.
    """

    pointer: Pointer
    size: int
    moved: int
    written: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel in a function's stream.

    ``numbers``: what the kernel is given behind its addresses, each an ``int``: sizes in which launches of one kernel
    differ. ``cached``: bytes of the caches that it reads for each position that a row sees; ``what`` says in words what
    it computes, and ``op`` which operation of the function it is, by number.
    """

    kernel: str
    grid: tuple[int, int]
    block: int
    shared: int  # bytes of dynamic shared memory
    arguments: tuple[Pointer, ...]
    accesses: tuple[Access, ...]
    numbers: tuple[int, ...] = ()
    chunked: bool = False
    cached: int = 0
    what: str = ""
    op: int = -1


@dataclass(frozen=True, slots=True)
class Stream:
    """The launches of one function, and where its inputs and logits are.

    ``launches`` end with logits in the arena. ``choice`` are those that may follow, to choose the next token of each
    row by the step's settings; none where rows are not sequences of their own. ``chunk`` is how many keys a chunk has;
    ``buckets`` the numbers of chunks there is a graph for.
    """

    name: str
    rows: int
    launches: tuple[Launch, ...]
    choice: tuple[Launch, ...]
    chunk: int
    buckets: tuple[int, ...]
    logits: int  # bytes into the arena
    logits_shape: tuple[int, int]

    @property
    def tokens(self) -> int:
        """The word of the step where tokens begin: what was chosen last, -1 where a row's logits are no numbers."""
        return HEADER_WORDS + ROW_WORDS * self.rows

    @property
    def draws(self) -> int:
        """The word where draws begin: where in [0, 1) each falls, a fraction of 64 bits, its lower half first."""
        return self.tokens + self.rows

    @property
    def settings(self) -> int:
        """The word where settings begin."""
        return self.draws + 2 * self.rows

    @property
    def words(self) -> int:
        """32-bit words of its step."""
        return self.tokens + (CHOICE_WORDS * self.rows if self.choice else 0)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A translation unit with one ``extern "C" __global__`` function of the same name.

    ``ir`` is the text of the operations it was printed from.
    """

    name: str
    text: str
    ir: str


@dataclass(frozen=True, slots=True)
class Program:
    """All kernels by name, all streams by function, and the sizes of what they work on, in bytes."""

    kernels: Mapping[str, Kernel]
    streams: Mapping[str, Stream]
    weights: tuple[str, ...]  # names of stored weights, in the order of their numbers
    states: tuple[str, ...]
    arena: int
    memory: int
