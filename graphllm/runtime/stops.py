"""Stop strings on a stream of text: what may still become one is held back, what comes after one is never shown."""

from __future__ import annotations

from collections.abc import Sequence

from graphllm.errors import RunError


class StopStrings:
    """Cuts a stream before the string that is complete first, however the text arrives in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise RunError("stop: an empty string; expected at least one character")
        self._stops: tuple[str, ...] = tuple(stops)
        self._held: str = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The text that is certain not to belong to a stop string."""
        if not self._stops:
            return text
        if self.hit:
            return ""
        text = self._held + text
        found = [(at + len(s), at) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, s) for s in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, when the stream ends without a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
