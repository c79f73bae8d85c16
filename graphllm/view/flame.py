"""A profiled step as bars: the step, its layers, its kernels, each as wide as its time."""

from __future__ import annotations

from typing import Final

from graphllm.view.profile_data import Profile
from graphllm.view.svg_paper import Paper, clipped, width_of

_WIDE: Final = 1200.0
_HIGH: Final = 22.0
_SIZE: Final = 9.0


def flame_svg(p: Profile) -> str:
    """The picture; gaps are time outside kernels."""
    paper = Paper()
    title = f"{p.function} on {p.device}: {p.step_ns / 1e3:.1f} us"
    paper.text(0, 14, title, 12, bold=True)
    scale = _WIDE / max(1, p.step_ns)

    def bar(row: int, start: float, ns: float, name: str, tip: str, fill: str) -> None:
        x, w, y = start * scale, max(0.5, ns * scale), 24 + row * (_HIGH + 2)
        paper.open("bar", name, tip)
        paper.rect(x, y, w, _HIGH, fill)
        room = int((w - 4) / width_of("x", _SIZE))
        if room >= 2:
            paper.text(x + 2, y + 14, clipped(name, room), _SIZE)
        paper.close()

    bar(0, 0, p.step_ns, p.function, title, "head")
    layers: dict[int, tuple[int, int]] = {}
    for k in p.kernels:
        first, last = layers.get(k.layer, (k.start_ns, k.start_ns))
        if k.layer >= 0:
            layers[k.layer] = min(first, k.start_ns), max(last, k.start_ns + k.ns)
    for layer, (first, last) in layers.items():
        tip = f"layer {layer}: {(last - first) / 1e3:.1f} us"
        bar(1, first, last - first, f"layer {layer}", tip, "box" if layer % 2 else "sand")
    for k in p.kernels:
        share = f", {100 * p.roofline(k):.0f} % of the roofline" if p.read_rate or p.flop_rate else ""
        tip = f"{k.name}: {' '.join(k.ops)}: {k.ns / 1e3:.2f} us, {k.bytes / max(1, k.ns):.2f} GB/s{share}"
        bar(2, k.start_ns, k.ns, k.name, tip, "green" if "attention" in k.template else "blue")
    return paper.finish(title)
