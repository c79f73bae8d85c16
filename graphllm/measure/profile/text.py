"""A profile as a table, and as a trace that Perfetto and Chrome open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphllm.measure.profile.parts import SILENT
from graphllm.view.profile_data import KernelTime, Profile
from graphllm.view.scope import without_scope
from graphllm.view.units import bytes_text


def label(k: KernelTime) -> str:
    """What a kernel is, whatever its layer."""
    ops = " ".join(o for o in k.ops if o not in SILENT) or k.template
    return f"{without_scope(k.name)}: {ops}{f' [{k.template}]' if k.code else ''}"


def profile_text(p: Profile) -> str:
    """Equal kernels of all layers in a line, the most time first; what no kernel accounts for below."""
    groups: dict[str, list[KernelTime]] = {}
    for k in p.kernels:
        groups.setdefault(label(k), []).append(k)
    order = sorted(groups.items(), key=lambda item: -sum(k.ns for k in item[1]))
    head = ("kernel", "calls", "us", "share", "bytes", "GB/s", "roofline")
    lines = _table([head, *(_row(p, n, ks) for n, ks in order)])
    threads = f"{p.threads} thread{'s' if p.threads != 1 else ''}, " if not any(k.code for k in p.kernels) else ""
    where = f"{p.function} on {p.device}, {threads}behind {p.position} tokens"
    lines.insert(
        0, f"{where}: {p.step_ns / 1e3:.1f} us, {'one step' if p.steps == 1 else f'the median of {p.steps} steps'}"
    )
    if any(len(k.ops) > 1 for k in p.kernels):
        lines += ["", *_table([("operation, estimated", "us", "share"), *_by_operation(p)])]
    outside = p.outside_ns
    lines.append("")
    lines.append(f"outside kernels: {outside / 1e3:.1f} us, {100 * outside / max(1, p.step_ns):.1f} % of the step")
    if p.plain_ns:
        lines.append(f"the same step as plans run it, nothing timed inside: {p.plain_ns / 1e3:.1f} us")
    lines += [p.note] if p.note else []
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([f"{row[0]:{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]


def _by_operation(p: Profile) -> list[tuple[str, ...]]:
    """Kernels' time shared out among their operations, those of a hundredth of the step and more."""
    times: dict[str, float] = {}
    for k in p.kernels:
        for name, share in zip(k.ops, k.op_shares, strict=False):
            times[name] = times.get(name, 0.0) + share * k.ns
    step = max(1, p.step_ns)
    order = sorted(((ns, name) for name, ns in times.items() if ns >= step / 100), reverse=True)
    return [(name, f"{ns / 1e3:.1f}", f"{100 * ns / step:.1f} %") for ns, name in order]


def _row(p: Profile, name: str, kernels: Sequence[KernelTime]) -> tuple[str, ...]:
    ns, moved = sum(k.ns for k in kernels), sum(k.bytes for k in kernels)
    least = sum(p.floor_ns(k) for k in kernels)
    share = f"{100 * ns / max(1, p.step_ns):.1f} %"
    roofline = f"{100 * least / max(1, ns):.0f} %" if least else ""
    speed = f"{moved / max(1, ns):.2f}" if not p.note else ""
    return name, str(len(kernels)), f"{ns / 1e3:.1f}", share, bytes_text(moved), speed, roofline


def chrome_trace(p: Profile) -> dict[str, Any]:
    """The step in the Trace Event Format (JSON object form): a row for the caller, one for each thread."""
    by_index = {(k.index, k.part): k for k in p.kernels}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "tid": tid, "name": "thread_name", "args": {"name": name}}
        for tid, name in enumerate(["step", *(f"thread {i}" for i in range(p.threads))])
    ]
    events.append({"ph": "X", "pid": 1, "tid": 0, "name": p.function, "cat": "step", "ts": 0.0, "dur": p.step_ns / 1e3})
    for span in p.spans:
        k = by_index[span.kernel, span.part]
        about = {"layer": k.layer, "ops": " ".join(k.ops), "bytes": k.bytes, "flops": k.flops, "kernel": k.code}
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
    about = {"device": p.device, "steps": p.steps, "note": p.note}
    return {"traceEvents": events, "displayTimeUnit": "ns", "otherData": about}
