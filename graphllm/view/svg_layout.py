"""Where everything of a graph goes on paper: boxes in rows, values in gaps between rows and in lanes beside them.

Rows are topological generations, segment by segment. A value leaves the bottom of its box past its own label, turns in
a track below all labels of that gap, and enters a box in the next row from above; to rows further down it goes
through a lane right of all boxes. So no line ever crosses text. Constants stand left of the line that reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphllm.view.picture import drawing, edges, nodes
from graphllm.view.svg_paper import clipped, width_of
from graphllm.view.svg_parts import APART, HEAD, LABEL, LINE, SMALL, TEXT, TITLE, WIDEST, Box, Chip, Layout, Net
from graphllm.view.svg_routes import choose_entries, choose_lanes, choose_ports, choose_tracks

if TYPE_CHECKING:
    from graphllm.view.picture import Graph


def lay_out(graph: Graph, left: float, top: float) -> Layout:
    """Place a graph of ``view.graph`` below and right of a corner."""
    whole, every = drawing(graph), nodes(graph)
    boxes, home = _boxes(graph)
    nets: dict[tuple[str, str], Net] = {}
    for a, b, edge in edges(graph):
        if every[a].kind in ("weight", "state"):
            box = home[b]
            chip = Chip(every[a], f"{every[a].label} {every[a].results[0].type}", edge.writes)
            chip.width = width_of(chip.text, SMALL) + 10
            box.chips[[n.id for n in box.lines].index(b)].append(chip)
        elif home[a] is not home[b] or edge.loop:
            for flow in edge.flows:
                net = nets.setdefault((home[a].id, flow.name), Net(home[a], flow))
                ends = net.loops if edge.loop else net.sinks
                if home[b] not in ends:
                    ends.append(home[b])
    rows = _rows(graph, boxes, list(nets.values()))
    made: dict[str, list[Net]] = {name: [] for name in boxes}
    for net in nets.values():
        made[net.source.id].append(net)
    for row in rows:
        for box in row:
            _size(box, made[box.id], alone=len(row) == 1)
    _align([row[0] for row in rows if len(row) == 1 and not row[0].pill])
    right = _across(rows, left)
    for row in rows:
        for box in row:
            right = max(right, choose_ports(box, made[box.id], alone=len(row) == 1))
    choose_entries(rows, list(nets.values()))
    lanes = choose_lanes(list(nets.values()), right + 14)
    bottom, frames = _down(rows, list(nets.values()), whole.segments, top)
    spans = {name: (left - 14, y0, lanes + 8, y1) for name, (y0, y1) in frames.items()}
    return Layout(boxes, list(nets.values()), spans, lanes + 8, bottom)


def _boxes(graph: Graph) -> tuple[dict[str, Box], dict[str, Box]]:
    """The boxes in program order, and the box of every node that is in one."""
    whole, every = drawing(graph), nodes(graph)
    boxes: dict[str, Box] = {}
    home: dict[str, Box] = {}
    for name in (name for segment in whole.segments for name in segment):
        kernel = whole.kernels.get(name)
        if kernel is not None:
            box = Box(name, False, kernel.frame, kernel.template, kernel.cost, [every[o] for o in kernel.ops])
        else:
            node = every[name]
            box = Box(name, node.kind != "op", node.frame, "", "", [node])
        box.chips = [[] for _ in box.lines]
        boxes[name] = box
        home |= {n.id: box for n in box.lines}
    return boxes, home


def _rows(graph: Graph, boxes: dict[str, Box], nets: list[Net]) -> list[list[Box]]:
    """Boxes by topological generation, each segment below the one before."""
    import networkx as nx

    rows: list[list[Box]] = []
    for segment in drawing(graph).segments:
        inside: Graph = nx.DiGraph()
        inside.add_nodes_from(segment)
        inside.add_edges_from(
            (n.source.id, s.id) for n in nets for s in n.sinks if n.source.id in inside and s.id in inside
        )
        carried = [name for name in segment if boxes[name].lines[0].kind == "carried"]
        generations = [[name] for name in carried]
        rest = inside.subgraph([name for name in segment if name not in carried])
        depth = {name: i for i, g in enumerate(nx.topological_generations(rest)) for name in g}
        for name in reversed(list(nx.topological_sort(rest))):  # what needs nothing stands right above who reads it
            if not any(True for _ in rest.predecessors(name)) and any(True for _ in rest.successors(name)):
                depth[name] = min(depth[s] for s in rest.successors(name)) - 1
        levels = max(depth.values(), default=-1) + 1
        generations += [[name for name in segment if depth.get(name) == i] for i in range(levels)]
        for generation in filter(None, generations):
            rows.append([boxes[name] for name in generation])
    for i, row in enumerate(rows):
        for box in row:
            box.row = i
    return rows


def _size(box: Box, made: list[Net], *, alone: bool) -> None:
    """Columns of text, and a box around them that has room for the labels of what it makes."""
    if box.pill:
        text = box.lines[0].label if made else str(box.lines[0].results[0])
        box.columns = [[text]]
        box.h = LINE + 4
    else:
        box.columns = [
            [n.label for n in box.lines],
            [clipped(", ".join(f.name for f in n.results), WIDEST) for n in box.lines],
            [clipped(" ".join(f.type for f in n.results), WIDEST) for n in box.lines],
            [clipped(n.detail, WIDEST) for n in box.lines],
        ]
        box.h = (HEAD if box.head else 3) + LINE * len(box.lines) + 4
    labels = sum(width_of(str(n.flow), SMALL) + 24 for n in made)
    if alone and len(made) < 2:
        labels = 0
    box.starts = _starts([box])
    box.w = max(box.starts[-1], width_of(f"kernel {box.head}  {box.cost}", TEXT) + 20, labels)


def _starts(boxes: list[Box]) -> list[float]:
    """Where columns begin so that they stand under each other in all boxes, and where the last one ends."""
    at, out = 10.0, list[float]()
    for i in range(max(len(b.columns) for b in boxes)):
        out.append(at)
        texts = [t for b in boxes if i < len(b.columns) for t in b.columns[i] if t]
        at += max((width_of(t, TEXT) + 12 for t in texts), default=0.0)
    return [*out, at - 2]


def _align(boxes: list[Box]) -> None:
    """One width and one set of columns for the boxes that stand alone in their row."""
    if boxes:
        starts = _starts(boxes)
        width = max(starts[-1], *(b.w for b in boxes))
        for box in boxes:
            box.starts, box.w = starts, width


def _across(rows: list[list[Box]], left: float) -> float:
    """Set x. Rows are centred on one axis, boxes without their constants; the rightmost edge comes back."""
    for row in rows:
        at = 0.0
        for box in row:
            at += box.chips_width if box is not row[0] else 0
            box.x = at
            at += box.w + APART
        shift = (at - APART) / 2
        for box in row:
            box.x -= shift
    reach = min((b.x - b.chips_width for row in rows for b in row), default=0.0)
    for row in rows:
        for box in row:
            box.x += left - reach
    return max((b.x + b.w for row in rows for b in row), default=left)


def _down(
    rows: list[list[Box]], nets: list[Net], segments: tuple[tuple[str, ...], ...], top: float
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Set y of boxes and tracks; how far down it goes, and the frames' tops and bottoms."""
    frames: dict[str, tuple[float, float]] = {}
    y, before = top, ""
    for i, row in enumerate(rows):
        frame = row[0].frame
        if frame != before:
            if before:
                frames[before] = frames[before][0], y
                y += 8
            if frame:
                frames[frame] = y, y
                y += TITLE - 8
            before = frame
        y += 9 if i else 0
        for box in row:
            box.y = y
        y += max(box.h for box in row)
        y += LABEL if any(n.source.row == i for n in nets) else 0
        y = choose_tracks(nets, i, y)
    if before:
        frames[before] = frames[before][0], y
    return y, frames
