"""Error by depth: a point for every value, in the order they are computed, on a logarithmic scale. SVG, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from graphllm.view.svg_paper import Paper, clipped

_LEFT: Final = 64.0
_TOP: Final = 40.0
_HIGH: Final = 260.0
_FLOOR: Final = -9  # powers of ten; less is drawn there


def error_plot_svg(
    title: str,
    names: Sequence[str],
    errors: Sequence[float],
    layers: Sequence[int | None],
    tolerance: float,
    parted: int,
) -> str:
    """The picture.

    Args:
        names, errors, layers: of each value; an error may be inf.
        parted: the index of the first beyond the tolerance, -1 for none.
    """
    paper = Paper()
    step = max(4.0, min(14.0, 1100 / max(1, len(errors))))
    logs = [_log(e) for e in errors]
    top = max(0, math.ceil(max([*logs, _log(tolerance)])))
    right = _LEFT + step * len(errors)

    def height(log: float) -> float:
        return _TOP + _HIGH * (top - log) / (top - _FLOOR)

    paper.text(_LEFT, 20, title, 12, bold=True)
    for power in range(_FLOOR, top + 1):
        paper.path([(_LEFT, height(power)), (right, height(power))], edge="box")
        paper.text(_LEFT - 6, height(power) + 3, f"1e{power}", 9, fill="faint", anchor="end")
    shade = False
    for i, layer in enumerate(layers):
        if i == 0 or layers[i - 1] != layer:
            shade = not shade
            end = next((j for j in range(i, len(layers)) if layers[j] != layer), len(layers))
            if shade and layer is not None:
                paper.rect(_LEFT + step * i, _TOP, step * (end - i), _HIGH, "box", edge="box")
            if layer is not None:
                paper.text(_LEFT + step * i + 2, _TOP + _HIGH + 14, str(layer), 9, fill="faint")
    paper.text(_LEFT, _TOP + _HIGH + 28, "layer", 9, fill="faint")
    y = height(_log(tolerance))
    paper.path([(_LEFT, y), (right, y)], edge="red", dash="5 4")
    paper.text(right + 4, y + 3, f"tolerance {tolerance:g}", 9, fill="red")
    places = [(_LEFT + step * (i + 0.5), height(log)) for i, log in enumerate(logs)]
    if len(places) > 1:
        paper.path(places, edge="ink", weight=1.3)
    for i, ((x, y), name) in enumerate(zip(places, names, strict=True)):
        paper.open("point", name, f"{name}: {errors[i]:.2e}")
        paper.rect(x - 2, y - 2, 4, 4, "red" if i == parted else "blue", edge="red" if i == parted else "ink", radius=2)
        paper.close()
    if parted >= 0:
        x, y = places[parted]
        paper.text(x + 8, max(_TOP + 10, y - 8), clipped(names[parted], 60), 10, fill="red", bold=True)
    return paper.finish(title)


def _log(error: float) -> float:
    if not error > 0:
        return _FLOOR
    return max(float(_FLOOR), min(6.0, math.log10(error))) if math.isfinite(error) else 6.0
