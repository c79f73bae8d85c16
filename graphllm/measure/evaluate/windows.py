"""A long text cut into what a model can see at once.

Every window scores the ``stride`` tokens at its end; those before them are seen and not scored, so a smaller stride
gives each token more to go by and costs more steps. With ``stride == window`` nothing is seen twice.

    window 6, stride 2        seen and not scored  . . . .    scored  # #
    BOS, of each window       B
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphllm.errors import RunError


@dataclass(frozen=True, slots=True)
class Window:
    """``feed`` is what the model is given; its last ``len(targets)`` predictions are of ``targets``."""

    feed: tuple[int, ...]
    targets: tuple[int, ...]


def cut(ids: Sequence[int], window: int, stride: int, bos: int | None) -> Iterator[Window]:
    """The windows of a text, in order.

    Args:
        window: positions fed at once at most, BOS included.
        bos: put in front of each window; without it nobody predicts a window's first token, which is not scored.
    """
    for start in range(0, len(ids), stride):
        end, begin = min(start + stride, len(ids)), max(0, start + stride - window)
        if bos is not None:
            yield Window((bos, *ids[begin : end - 1]), tuple(ids[start:end]))
        elif targets := tuple(ids[max(start, begin + 1) : end]):
            yield Window(tuple(ids[begin : end - 1]), targets)


def check_window(window: int, stride: int, context: int) -> None:
    """Raise RunError unless windows can be cut so, and fit in a context."""
    if not 2 <= window <= context:
        raise RunError(f"window: {window}; expected 2 to {context}, the context; --context makes it larger")
    if not 1 <= stride <= window:
        raise RunError(f"stride: {stride}; expected 1 to {window}, the window")
