"""The ways of values through a picture: where they leave and enter boxes, in which lane and track they turn.

See ``svg_layout`` for the rules. Two values never share a stretch of lane or track.
"""

from __future__ import annotations

from graphllm.view.svg_paper import width_of
from graphllm.view.svg_parts import LANE, SMALL, TRACK, Box, Net


def choose_ports(box: Box, made: list[Net], *, alone: bool) -> float:
    """Where each value leaves the box; how far its label reaches to the right."""
    if len(made) == 1 and (alone or box.pill):
        made[0].x = box.x + box.w / 2 if alone else box.x + 12
    else:
        at = box.x + 12
        for net in made:
            net.x = at
            at += width_of(str(net.flow), SMALL) + 24
    return max((net.x + width_of(str(net.flow), SMALL) + 6 for net in made), default=box.x + box.w)


def choose_entries(rows: list[list[Box]], nets: list[Net]) -> None:
    """Where each value enters each box: straight below where it left if it can, from the right if through a lane."""
    for i, row in enumerate(rows):
        leaving = [n.x for n in nets if n.source.row == i - 1]
        for box in row:
            taken: list[float] = []
            entering = [n for n in nets if box in n.sinks]
            for net in sorted(entering, key=lambda n: n.source.row != i - 1):
                near = net.source.row == i - 1
                wish = net.x if near else box.x + box.w - 12
                others = [x for x in leaving if x != net.x or not near]
                free = [
                    x
                    for step in range(400)
                    for x in (wish - 8 * step, wish + 8 * step)
                    if box.x + 8 <= x <= box.x + box.w - 8
                    and all(abs(x - t) >= 8 for t in taken)
                    and all(abs(x - o) >= 4 for o in others)
                ]
                x = free[0] if free else box.x + box.w / 2
                taken.append(x)
                net.entry[box.id] = x


def choose_lanes(nets: list[Net], first: float) -> float:
    """Give a lane to every value that goes further than the next row, short ones inside; the outer edge comes back."""
    spans: list[tuple[int, int, Net]] = []
    for net in nets:
        ends = [s.row for s in net.sinks if s.row > net.source.row + 1] + [b.row for b in net.loops]
        if ends:
            spans.append((min(net.source.row, *ends), max(net.source.row, *ends), net))
    lanes: list[list[tuple[int, int]]] = []
    for a, b, net in sorted(spans, key=lambda s: (s[1] - s[0], s[0])):
        free = (i for i, lane in enumerate(lanes) if all(b < c or d < a for c, d in lane))
        at = next(free, len(lanes))
        if at == len(lanes):
            lanes.append([])
        lanes[at].append((a, b))
        net.lane = first + at * LANE
    return first + len(lanes) * LANE


def choose_tracks(nets: list[Net], row: int, y: float) -> float:
    """Heights of the horizontal stretches between a row and the next."""
    spans: list[tuple[float, float, Net]] = []
    for net in nets:
        xs = {net.entry[s.id] for s in net.sinks if s.row == row + 1}
        far = any(s.row > net.source.row + 1 for s in net.sinks)
        if net.source.row == row:
            xs |= {net.x} | ({net.lane} if net.lane is not None and (far or net.loops) else set[float]())
        elif xs and net.lane is not None:
            xs.add(net.lane)
        if len(xs) > 1:
            spans.append((min(xs), max(xs), net))
    tracks: list[list[tuple[float, float]]] = []
    for a, b, net in sorted(spans, key=lambda s: (s[1] - s[0], s[0])):
        free = (i for i, track in enumerate(tracks) if all(b + 6 < c or d + 6 < a for c, d in track))
        at = next(free, len(tracks))
        if at == len(tracks):
            tracks.append([])
        tracks[at].append((a, b))
        net.track[row] = y + at * TRACK + 1
    return y + len(tracks) * TRACK
