"""A profile as a table, and as a trace that Perfetto and Chrome open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphllm.view.profile_data import KernelTime, Profile
from graphllm.view.scope import without_scope

_SILENT = frozenset({"reshape", "split", "cast", "dequantize"})


def label(k: KernelTime) -> str:
    """What a kernel is, whatever its layer."""
    return f"{without_scope(k.name)}: {' '.join(o for o in k.ops if o not in _SILENT) or k.template}"


def profile_text(p: Profile) -> str:
    """Equal kernels of all layers in a line, the most time first; what no kernel accounts for below."""
    groups: dict[str, list[KernelTime]] = {}
    for k in p.kernels:
        groups.setdefault(label(k), []).append(k)
    order = sorted(groups.items(), key=lambda item: -sum(k.ns for k in item[1]))
    rows = [("kernel", "calls", "us", "share", "GB/s", "roofline"), *(_row(p, n, ks) for n, ks in order)]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = [
        "  ".join([f"{row[0]:{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    where = f"{p.function} on {p.device}, {p.threads} threads, behind {p.position} tokens"
    lines.insert(0, f"{where}: {p.step_ns / 1e3:.1f} us, the median of {p.steps} steps")
    outside = p.outside_ns
    lines.append("")
    lines.append(f"outside kernels: {outside / 1e3:.1f} us, {100 * outside / max(1, p.step_ns):.1f} % of the step")
    return "\n".join(lines)


def _row(p: Profile, name: str, kernels: Sequence[KernelTime]) -> tuple[str, ...]:
    ns, moved = sum(k.ns for k in kernels), sum(k.bytes for k in kernels)
    least = sum(p.floor_ns(k) for k in kernels)
    share = f"{100 * ns / max(1, p.step_ns):.1f} %"
    roofline = f"{100 * least / max(1, ns):.0f} %" if least else ""
    return name, str(len(kernels)), f"{ns / 1e3:.1f}", share, f"{moved / max(1, ns):.2f}", roofline


def chrome_trace(p: Profile) -> dict[str, Any]:
    """The step in the Trace Event Format (JSON object form): a row for the caller, one for each thread."""
    by_index = {k.index: k for k in p.kernels}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for tid, name in enumerate(["step", *(f"thread {i}" for i in range(p.threads))])
    ]
    events.append({"ph": "X", "pid": 1, "tid": 0, "name": p.function, "cat": "step", "ts": 0.0, "dur": p.step_ns / 1e3})
    for span in p.spans:
        k = by_index[span.kernel]
        about = {"layer": k.layer, "ops": " ".join(k.ops), "bytes": k.bytes, "flops": k.flops}
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": 1 + span.thread,
                "name": k.name,
                "cat": k.template,
                "ts": span.start_ns / 1e3,
                "dur": span.ns / 1e3,
                "args": about,
            }
        )
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": {"device": p.device, "steps": p.steps}}
