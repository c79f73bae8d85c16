"""Error by depth as a picture: SVG by ourselves, PNG where matplotlib is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphllm.errors import GraphLLMError
from graphllm.measure.diff.run import Difference
from graphllm.plan.atomic_file import replacing
from graphllm.plan.place import refusal, shown
from graphllm.view.error_plot import error_plot_svg

Points: TypeAlias = tuple[list[str], list[int | None], list[float]]  # names, layers, errors


def write_plot(d: Difference, path: Path) -> None:
    """Write the picture. Raises GraphLLMError for another suffix, without matplotlib, or where it cannot be written."""
    found = d.apart if d.apart is not None else d.found
    title = f"{found.names[0]} against {found.names[1]}: relative error by depth"
    names, layers, errors = (list(x) for x in zip(*((p.name, p.layer, p.relative) for p in found.points), strict=True))
    parted = found.points.index(found.parted) if found.parted is not None else -1
    if path.suffix == ".svg":
        data = error_plot_svg(title, names, errors, layers, found.tolerance, parted).encode()
        with replacing(path, len(data)) as file:
            file.write(data)
    elif path.suffix == ".png":
        _png(title, (names, layers, errors), found.tolerance, parted, path)
    else:
        raise GraphLLMError(f"--plot {shown(path)}: expected a name that ends in .svg or .png")


def _png(title: str, points: Points, tolerance: float, parted: int, path: Path) -> None:
    names, layers, errors = points
    if find_spec("matplotlib") is None:
        raise GraphLLMError(f"--plot {shown(path)}: needs matplotlib; pip install matplotlib, or name it .svg")
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(10, 4))
    heights = np.clip(np.nan_to_num(np.array(errors), posinf=1e6), 1e-9, 1e6)
    for layer in sorted({n for n in layers if n is not None}):
        first = layers.index(layer)
        count = layers.count(layer)
        if layer % 2 == 0:
            axes.axvspan(first - 0.5, first + count - 0.5, color="0.93")
        axes.annotate(str(layer), (first, 0.01), xycoords=("data", "axes fraction"), color="0.4", fontsize=8)
    axes.semilogy(heights, ".-", color="black", linewidth=1)
    axes.axhline(tolerance, color="firebrick", linestyle="--")
    if parted >= 0:
        axes.plot([parted], [heights[parted]], "o", color="firebrick")
        left = parted < len(names) // 2
        style: dict[str, Any] = {"color": "firebrick", "fontsize": 9, "textcoords": "offset points", "va": "center"}
        style["ha"] = "left" if left else "right"
        axes.annotate(names[parted], (parted, heights[parted]), (8 if left else -8, 0), **style)
    axes.set(title=title, xlabel="values in the order they are computed, by layer", ylabel="relative error")
    try:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    except OSError as error:
        raise GraphLLMError(f"{shown(path)}: cannot be written; {refusal(error)}") from None
    finally:
        pyplot.close(figure)
