"""Draws the losses of a training."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen is needed
from matplotlib import pyplot as plt


def draw(losses: Path, picture: Path) -> None:
    """A PNG of training and held-out loss, nats a token, by step."""
    with losses.open(newline="") as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, style in (("training", "-"), ("held_out", "--")):
        axes.plot([r["step"] for r in rows], [r[name] for r in rows], style, label=name.replace("_", " "))
    axes.set(xlabel="step", ylabel="loss, nats a token", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=110)
    plt.close(figure)
