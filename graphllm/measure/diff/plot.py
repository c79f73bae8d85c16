"""Error by depth as a picture: SVG by ourselves, PNG where matplotlib is installed."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from graphllm.errors import GraphLLMError
from graphllm.measure.diff.run import Difference
from graphllm.plan.atomic_file import replacing
from graphllm.plan.place import refusal, shown
from graphllm.view.error_plot import error_plot_svg


def write_plot(d: Difference, path: Path) -> None:
    """Write the picture. Raises GraphLLMError for another suffix, without matplotlib, or where it cannot be written."""
    found = d.apart if d.apart is not None else d.found
    title = f"{found.names[0]} against {found.names[1]}: relative error by depth"
    errors = [p.relative for p in found.points]
    parted = found.points.index(found.parted) if found.parted is not None else -1
    if path.suffix == ".svg":
        names, layers = [p.name for p in found.points], [p.layer for p in found.points]
        data = error_plot_svg(title, names, errors, layers, found.tolerance, parted).encode()
        with replacing(path, len(data)) as file:
            file.write(data)
    elif path.suffix == ".png":
        _png(title, errors, found.tolerance, parted, path)
    else:
        raise GraphLLMError(f"--plot {shown(path)}: expected a name that ends in .svg or .png")


def _png(title: str, errors: list[float], tolerance: float, parted: int, path: Path) -> None:
    if find_spec("matplotlib") is None:
        raise GraphLLMError(f"--plot {shown(path)}: needs matplotlib; pip install matplotlib, or name it .svg")
    import_module("matplotlib").use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=(10, 4))
    heights = np.clip(np.nan_to_num(np.array(errors), posinf=1e6), 1e-9, 1e6)
    axes.semilogy(heights, ".-", color="black", linewidth=1)
    axes.axhline(tolerance, color="firebrick", linestyle="--")
    if parted >= 0:
        axes.plot([parted], [heights[parted]], "o", color="firebrick")
    axes.set(title=title, xlabel="value, in the order they are computed", ylabel="relative error")
    try:
        figure.savefig(path, dpi=120, bbox_inches="tight")
    except OSError as error:
        raise GraphLLMError(f"{shown(path)}: cannot be written; {refusal(error)}") from None
    finally:
        pyplot.close(figure)
