"""The arena as a map: address downwards is time to the right, one rectangle for each stretch, the peak marked.

Where the smallest stretches would be thinner than a line on a true scale, the address axis is stretched between the
places' edges and says so.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

from graphllm.ir.core import Function
from graphllm.plan.place import shown
from graphllm.view.arena import ROLES, Role, Step, Stretch, in_use, peak, steps, stretches
from graphllm.view.scope import layer_of_name, without_scope
from graphllm.view.svg_paper import Paper, clipped, width_of
from graphllm.view.units import bytes_text

_LEFT: Final = 96.0
_TOP: Final = 96.0
_WIDE: Final = 1180.0
_HIGH: Final = 640.0
_THIN: Final = 28.0  # least height of a band of addresses, where the scale is not true
_SMALL: Final = 9.5
_NAMED: Final = 40  # kernels whose names all stand under their ticks; of more, those with room for it
_FILL: Final[dict[Role, str]] = {"result": "green", "between": "blue", "inner": "sand", "scratch": "box"}


def memory_map_svg(function: Function) -> str:
    """The picture of a planned function's arena. Raises GraphLLMError where no memory was planned."""
    return _Map(function).draw()


def memory_map_text(function: Function) -> str:
    """The same as a table, by time: place, bytes, steps, role, name. Raises GraphLLMError as above."""
    found = stretches(function)
    at, most = peak(found)
    at_peak = in_use(found, at)
    rows = [("address", "bytes", "steps", "role", "what")]
    for s in sorted(found, key=lambda s: (s.first, s.offset)):
        span = f"{s.first}" if s.first == s.last else f"{s.first} to {s.last}"
        heir = f", in place of {found[s.heir_of].name}" if s.heir_of >= 0 else ""
        mark = " *" if s in at_peak else ""
        rows.append((str(s.offset), str(s.bytes), span, s.role, f"{shown(s.name)} {s.type}".rstrip() + heir + mark))
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    i, j, k, n = widths
    lines = [f"{a:>{i}}  {b:>{j}}  {c:<{k}}  {d:<{n}}  {e}".rstrip() for a, b, c, d, e in rows]
    head = f"@{function.name}: arena {function.arena} bytes, at most {most} in use at once (*), at step {at}"
    return "\n".join([head, *lines, ""])


class _Map:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.found = stretches(function)
        self.steps = steps(function)
        self.arena = function.arena or 0
        self.peak_at, self.peak_bytes = peak(self.found)
        self.column = _WIDE / (len(self.steps) + 1)  # one more for the return
        self.edges, self.true = self.scale()

    def scale(self) -> tuple[dict[int, float], bool]:
        """Height of every address at which a stretch begins or ends, and whether the scale is true."""
        marks = sorted({0, self.arena} | {a for s in self.found for a in (s.offset, s.offset + s.bytes)})
        per_byte = _HIGH / max(self.arena, 1)
        bands = [b - a for a, b in pairwise(marks)]
        if all(b * per_byte >= 5 for b in bands):
            return {a: _TOP + a * per_byte for a in marks}, True
        least = min(_THIN, _HIGH / len(bands) * 0.7)
        rest = (_HIGH - least * len(bands)) / max(self.arena, 1)
        out, y = {marks[0]: _TOP}, _TOP
        for mark, band in zip(marks[1:], bands, strict=True):
            y += least + band * rest
            out[mark] = y
        return out, False

    def x(self, time: float) -> float:
        return _LEFT + time * self.column

    def draw(self) -> str:
        paper = Paper()
        about = f"arena {bytes_text(self.arena)}, at most {bytes_text(self.peak_bytes)} in use at once"
        paper.text(16, 26, f"@{self.function.name}: memory map", 16, bold=True)
        paper.text(16, 43, f"{about} · {len(self.found)} stretches · {len(self.steps)} operations", 10.5, fill="faint")
        self.legend(paper)
        self.axes(paper)
        heirs = {s.heir_of for s in self.found if s.heir_of >= 0}
        for i, s in enumerate(self.found):
            self.stretch(paper, s, handed_on=i in heirs)
        self.mark_peak(paper)
        return paper.finish(f"Memory map of @{self.function.name}")

    def legend(self, paper: Paper) -> None:
        x = 16.0
        for role, text in ROLES.items():
            paper.rect(x, 52, 20, 11, _FILL[role])
            if role == "scratch":
                paper.hatched(x, 52, 20, 11)
            paper.text(x + 26, 61, text, 10.5)
            x += width_of(text, 10.5) + 46
        paper.path([(x, 52), (x, 63)], edge="ink", weight=2.4)
        paper.text(x + 8, 61, "written in place of what it was made from", 10.5)
        if not self.true:
            paper.text(x + 300, 61, "address axis not to scale: thin places are widened", 10.5, fill="red")

    def axes(self, paper: Paper) -> None:
        bottom = _TOP + _HIGH
        last = -99.0
        for address, y in self.edges.items():
            if y - last >= 11 and (bottom - y >= 11 or address == self.arena):
                paper.path([(_LEFT - 4, y), (_LEFT, y)])
                paper.text(_LEFT - 8, y + 3.5, bytes_text(address), _SMALL, fill="faint", anchor="end")
                last = y
        paper.text(_LEFT - 8, _TOP - 8, "address", _SMALL, fill="faint", anchor="end")
        paper.rect(_LEFT, _TOP, _WIDE, _HIGH, "none")
        groups: list[tuple[int, int, Step]] = []  # first step, end, of each kernel
        for i, step in enumerate(self.steps):
            if groups and groups[-1][2].kernel == step.kernel:
                groups[-1] = groups[-1][0], i + 1, groups[-1][2]
            else:
                groups.append((i, i + 1, step))
        free = [-99.0] * 3  # where text on each of the lines of names ends
        for first, end, step in groups:
            x0, x1 = self.x(first), self.x(end)
            paper.open("tick", f"kernel {step.kernel}", f"kernel {step.template}")
            paper.path([(x0, bottom), (x0, bottom + 5)])
            paper.close()
            line = next((i for i, used in enumerate(free) if used + 4 <= x0), None)
            if line is not None and (len(groups) <= _NAMED or width_of(step.template, _SMALL) + 4 <= x1 - x0):
                paper.text(x0 + 2, bottom + 14 + 11 * line, step.template, _SMALL, fill="faint")
                free[line] = x0 + 2 + width_of(step.template, _SMALL)
        self.layers(paper, bottom + 46)
        paper.text(_LEFT, bottom + 74, "steps of the schedule, a tick where a kernel begins", _SMALL, fill="faint")

    def layers(self, paper: Paper, y: float) -> None:
        """A bracket under the steps of every layer."""
        spans: dict[int, tuple[int, int]] = {}
        for i, step in enumerate(self.steps):
            layer = layer_of_name(step.op.results[0].name)
            if layer is not None:
                spans[layer] = spans.get(layer, (i, i))[0], i + 1
        for layer, (first, end) in spans.items():
            x0, x1 = self.x(first) + 1, self.x(end) - 1
            paper.path([(x0, y - 4), (x0, y), (x1, y), (x1, y - 4)])
            text = f"layer {layer}" if x1 - x0 > 50 else str(layer)
            if x1 - x0 > 12:
                paper.text((x0 + x1) / 2, y + 12, text, _SMALL, fill="faint", anchor="middle")

    def stretch(self, paper: Paper, s: Stretch, *, handed_on: bool) -> None:
        """A takeover happens in the middle of the step that reads the old content and writes the new."""
        x0 = self.x(s.first + (0.5 if s.heir_of >= 0 else 0))
        x1 = self.x(s.last + (0.5 if handed_on else 1))
        y0, y1 = self.edges[s.offset], self.edges[s.offset + s.bytes]
        span = f"step {s.first}" if s.first == s.last else f"steps {s.first} to {s.last}"
        heir = f"\nin place of {self.found[s.heir_of].name}" if s.heir_of >= 0 else ""
        tip = f"{s.name} {s.type}\n{ROLES[s.role]}, {s.bytes} bytes at arena+{s.offset}, {span}{heir}"
        paper.open("stretch", s.name, tip)
        paper.rect(x0, y0, x1 - x0, y1 - y0, _FILL[s.role])
        if s.role == "scratch":
            paper.hatched(x0, y0, x1 - x0, y1 - y0)
        if s.heir_of >= 0:
            paper.path([(x0, y0), (x0, y1)], edge="ink", weight=2.4)
        room = int((x1 - x0 - 6) / width_of("x", _SMALL))
        name = without_scope(s.name.lstrip("%"))
        if room >= min(len(name), 6) and y1 - y0 >= 8 and s.role != "scratch":
            paper.text(x0 + 4, (y0 + y1) / 2 + 3.2, clipped(name, room), min(_SMALL, y1 - y0))
        paper.close()

    def mark_peak(self, paper: Paper) -> None:
        """A frame round the step with most in use, and what that is, listed beside."""
        if not self.found:
            return
        at = self.peak_at
        bottom = _TOP + _HIGH
        paper.open("peak", str(at))
        paper.rect(self.x(at), _TOP - 3, self.column, _HIGH + 6, "none", edge="red", dash="3 2")
        middle = self.x(at + 0.5)
        paper.path([(middle, _TOP - 10), (middle, _TOP - 3)], edge="red")
        paper.text(middle, _TOP - 12, "peak", _SMALL, fill="red", anchor="middle", bold=True)
        x, y = _LEFT + _WIDE + 22, _TOP + 8
        op = self.steps[at].op if at < len(self.steps) else None
        paper.text(x, y, f"Peak: {bytes_text(self.peak_bytes)} in use", 10.5, fill="red", bold=True)
        what = f"at step {at}, {op.name} giving {op.results[0].ref}" if op is not None else "at the return"
        paper.text(x, y + 14, clipped(what, 42), _SMALL, fill="faint")
        y += 34
        alive = in_use(self.found, at)
        shown = alive[: int((bottom - y) / 27)]
        for s in shown:
            paper.text(x, y, clipped(s.name.lstrip("%"), 30), _SMALL)
            paper.text(x + 250, y, bytes_text(s.bytes), _SMALL, anchor="end")
            paper.text(x, y + 11, f"{s.type} {ROLES[s.role]}".strip(), 8.5, fill="faint")
            y += 27
        if len(alive) > len(shown):
            paper.text(x, y, f"and {len(alive) - len(shown)} more", _SMALL, fill="faint")
        paper.close()
