"""A graph of ``view.graph`` as an SVG picture: no Graphviz, readable in light, dark and grey, tooltips with the IR."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from graphllm.view.picture import Drawing, drawing
from graphllm.view.svg_layout import lay_out
from graphllm.view.svg_paper import Paper, clipped, width_of
from graphllm.view.svg_parts import HEAD, LINE, SMALL, TEXT, TITLE, Box, Chip, Layout, Net

if TYPE_CHECKING:
    from graphllm.view.picture import Graph

_LEFT: Final = 30.0
_TOP: Final = 58.0
_NOTES: Final = 34  # characters of a line of the notes


def to_svg(graph: Graph) -> str:
    """The picture. Same graph, same text."""
    whole = drawing(graph)
    layout = lay_out(graph, _LEFT, _TOP)
    paper = Paper()
    paper.text(16, 26, whole.title, 16, bold=True)
    paper.text(16, 43, whole.subtitle, TEXT, fill="faint")
    for name, (x0, y0, x1, y1) in layout.frames.items():
        frame = whole.frames[name]
        paper.open("frame", name, frame.title)
        paper.rect(x0, y0, x1 - x0, y1 - y0, "none", radius=6, dash="6 4")
        paper.text(x0 + 10, y0 + TITLE - 6, frame.title, 12, bold=True)
        paper.close()
    for net in layout.nets:
        _net(paper, net)
    for box in layout.boxes.values():
        _box(paper, box, whole)
    _notes(paper, whole, layout)
    return paper.finish(f"{whole.title}: {whole.subtitle}")


def _box(paper: Paper, box: Box, whole: Drawing) -> None:
    if box.pill:
        node = box.lines[0]
        paper.open(node.kind, box.id, node.tip)
        paper.rect(box.x, box.y, box.w, box.h, "blue", radius=box.h / 2)
        paper.text(box.x + box.w / 2, box.y + 13, box.columns[0][0], TEXT, anchor="middle", bold=True)
        paper.close()
        return
    kernel = whole.kernels.get(box.id)
    paper.open("kernel" if kernel else "lone", box.id if kernel else "", kernel.tip if kernel else "")
    paper.rect(box.x, box.y, box.w, box.h, "box", radius=4, edge="ink" if kernel else "line")
    top = box.y + 3
    if kernel:
        paper.rect(box.x + 0.5, box.y + 0.5, box.w - 1, HEAD - 3, "head", radius=3.5, edge="")
        paper.text(box.x + 10, box.y + 12.5, f"kernel {box.head}", TEXT, bold=True)
        paper.text(box.x + box.w - 10, box.y + 12.5, box.cost, SMALL, fill="faint", anchor="end")
        top = box.y + HEAD
    for i, node in enumerate(box.lines):
        y = top + LINE * i + 11
        paper.open("op", node.id, node.tip)
        paper.rect(box.x + 2, y - 11, box.w - 4, LINE, "box", edge="")
        for column, text in enumerate(texts[i] for texts in box.columns):
            if text:
                fill = "ink" if column in (0, 2) else "faint"
                paper.text(box.x + box.starts[column], y, text, TEXT, fill=fill, bold=column == 0)
        paper.close()
        _chips(paper, box, box.chips[i], y - 3.5)
    paper.close()


def _chips(paper: Paper, box: Box, chips: list[Chip], y: float) -> None:
    """Constants of one operation, in operand order, the last one next to the box."""
    x = box.x - 12
    if chips:
        paper.path([(x, y), (box.x, y)], arrow=True, both=any(c.writes for c in chips))
    for chip in reversed(chips):
        x -= chip.width
        paper.open(chip.node.kind, chip.node.id, chip.node.tip)
        state = chip.node.kind == "state"
        paper.rect(x, y - 6.5, chip.width, 13, "green" if state else "sand", radius=6.5 if state else 1)
        paper.text(x + 5, y + 3.2, chip.text, SMALL)
        paper.close()
        x -= 3


def _net(paper: Paper, net: Net) -> None:
    """A value's lines and its label, which stands right of where it leaves."""
    box = net.source
    bottom = box.y + box.h
    turn = net.track.get(box.row, bottom)
    paper.open("value", "", str(net.flow))
    trunk: list[float] = []  # heights at which the lane is left
    for sink in net.sinks:
        x = net.entry[sink.id]
        if sink.row == box.row + 1:
            bend = [(net.x, turn), (x, turn)] if x != net.x else []
            paper.path([(net.x, bottom), *bend, (x, sink.y)], arrow=True)
        else:
            assert net.lane is not None
            last = net.track[sink.row - 1]
            trunk.append(last)
            paper.path([(net.lane, last), (x, last), (x, sink.y)], arrow=True)
    if trunk:
        assert net.lane is not None
        paper.path([(net.x, bottom), (net.x, turn), (net.lane, turn), (net.lane, max(trunk))])
    for pill in net.loops:
        assert net.lane is not None
        y = pill.y + pill.h / 2
        points = [(net.x, bottom), (net.x, turn), (net.lane, turn), (net.lane, y), (pill.x + pill.w, y)]
        paper.path(points, arrow=True, dash="4 3")
    paper.text(net.x + 5, bottom + 10, str(net.flow), SMALL, fill="faint")
    paper.close()


def _notes(paper: Paper, whole: Drawing, layout: Layout) -> None:
    """Beside the picture: what the marks mean, and what repeated layers have for themselves."""
    x, y = layout.right + 26, _TOP + 8
    paper.open("legend")
    for fill, radius, text in (
        ("box", 4.0, "kernel, its operations in order"),
        ("sand", 1.0, "weight"),
        ("green", 6.5, "state: outlives the step"),
        ("blue", 6.5, "input, result, carried value"),
    ):
        paper.rect(x, y - 10, 26, 13, fill, radius=radius, edge="ink" if fill == "box" else "line")
        paper.text(x + 36, y, text, TEXT)
        y += 19
    for text, dash, both in (
        ("value", "", False),
        ("to the next layer", "4 3", False),
        ("state overwritten in place", "", True),
    ):
        paper.path([(x, y - 4), (x + 26, y - 4)], dash=dash, arrow=True, both=both)
        paper.text(x + 36, y, text, TEXT)
        y += 19
    paper.close()
    for frame in whole.frames.values():
        notes = [("Drawn once. Each has its own", frame.own)] if frame.own else []
        notes += [("Unlike the layers above:", frame.unlike)] if frame.unlike else []
        if notes:
            y += 14
            paper.text(x, y, clipped(frame.title, _NOTES), TEXT, bold=True)
        for about, items in notes:
            y += 16
            paper.text(x, y, about, TEXT, fill="faint")
            for item in items:
                y += 14
                paper.text(x + 10, y, clipped(item, _NOTES), SMALL)
        y += 10
    paper.reach(x + width_of("x" * _NOTES, SMALL), layout.bottom)
