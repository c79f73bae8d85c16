"""What was measured as a table, plain or Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from graphllm.measure.bench.run import Bench, Timed
from graphllm.view.units import bytes_text


def bench_text(found: Bench, *, markdown: bool = False) -> str:
    """A line for each case and model; of two models, the ratio of the first to the second below them."""
    energy = any(t.joules is not None for timed in found.timed for t in timed)
    head = ["model", "size", "device", "test", "tok/s", "quartiles", "of bandwidth"] + ["J/token"] * energy
    ratios = len(found.names) == 2
    rows: list[list[str]] = []
    for i, case in enumerate(t.case for t in found.timed[0]):
        for name, about, timed in zip(found.names, found.about, found.timed, strict=True):
            device = f"{about['device']}, {about['threads']} threads" if about["threads"] > 1 else about["device"]
            rows.append([name, bytes_text(about["weight_bytes"]), device, *_cells(timed[i], found.bandwidth, energy)])
        if ratios:
            rows.append(["", "", "ratio", case.name, f"{found.ratio(i):.3f}", "", "", *([""] * energy)])
    table = _markdown(head, rows) if markdown else _plain(head, rows)
    rounds = len(found.timed[0][0].speeds)
    note = f"medians of {rounds} rounds" if rounds > 1 else "one round"
    if found.bandwidth:
        whose = "the GPU's memory takes" if found.about[0]["device"] == "cuda" else "this machine reads"
        note += f"; {whose} {bytes_text(int(found.bandwidth))}/s"
    if ratios:
        note += f"; ratio: {found.names[0]} over {found.names[1]}, in the same round"
    return f"{table}\n\n{note}"


def _cells(t: Timed, bandwidth: float, energy: bool) -> list[str]:
    low, high = t.quartiles
    share = f"{100 * t.share(bandwidth):.0f} %" if bandwidth and t.moved else ""
    cells = [t.case.name, _speed(t.speed), f"{_speed(low)} to {_speed(high)}", share]
    return cells + ([f"{t.joules:.3g}" if t.joules is not None else ""] if energy else [])


def _speed(x: float) -> str:
    return f"{x:.4g}" if x < 1000 else f"{x:,.0f}"


def _plain(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    left = (0, 2, 3)
    return "\n".join(
        "  ".join(f"{c:{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        .rstrip()
        for row in (head, *rows)
    )  # fmt: skip


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", "--:", "---", "---", *["--:"] * (len(head) - 4)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)
