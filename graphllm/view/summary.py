"""One page about a lowered module: what the model is, what it weighs, what a step costs, what each pass did.

What a module does not know (its model's configuration, the planner's lower bounds, the passes) comes as plain data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from graphllm.ir.core import Function, Module
from graphllm.ir.cost import cached_bytes_per_position, step_bytes, step_flops
from graphllm.view.fold import distinct_kernels
from graphllm.view.units import bytes_text, count_text

Rows = Sequence[Sequence[str]]


def summary(
    module: Module,
    config: Mapping[str, object] | None = None,
    lower_bounds: Mapping[str, int] | None = None,
    passes: Sequence[Mapping[str, object]] = (),
) -> str:
    """The page as plain text. "A step" speaks of the first function, as a rule decode.

    Args:
        config: the model's configuration by field, shown as it is.
        lower_bounds: for each planned function the least bytes any arena could do with.
        passes: what each pass did, with the keys name, rewrites, ops, kernels, bytes_per_step, arena.
    """
    parts: list[str] = []
    if config:
        parts.append(_section("Model", _pairs({k: _plain(v) for k, v in config.items() if _worth_a_line(v)})))
    parts.append(_section("Weights", weights_table(module)))
    if module.functions:
        first = next(iter(module.functions.values()))
        if module.states:
            parts.append(_section("KV cache", _pairs(kv_facts(module, first))))
        parts.append(_section(f"A step of @{first.name}", _pairs(step_facts(module, first))))
        parts.append(_section("Functions", functions_table(module, lower_bounds or {})))
    if passes:
        parts.append(_section("Passes", passes_table(passes)))
    return "\n".join(parts)


def weights_table(module: Module) -> str:
    """Count and bytes of the weights that functions read, by dtype."""
    by_dtype: dict[str, list[int]] = {}
    for w in module.stored_weights():
        by_dtype.setdefault(w.type.dtype, []).append(w.type.bytes)
    rows = [(d, str(len(b)), bytes_text(sum(b))) for d, b in sorted(by_dtype.items(), key=lambda x: -sum(x[1]))]
    total = [b for sizes in by_dtype.values() for b in sizes]
    if len(rows) != 1:
        rows.append(("total", str(len(total)), bytes_text(sum(total))))
    return _table(("dtype", "tensors", "bytes"), rows)


def kv_facts(module: Module, function: Function) -> dict[str, str]:
    """Bytes of the cache: for a position, and altogether."""
    total = sum(s.type.bytes for s in module.states.values())
    return {
        "a token": bytes_text(cached_bytes_per_position(function)),
        "full": f"{bytes_text(total)} in {len(module.states)} tensors",
    }


def step_facts(module: Module, function: Function) -> dict[str, str]:
    """What one step of a function runs, moves and computes."""
    rows = max((v.type.shape[0] for v in function.inputs if v.type.shape), default=1)
    empty, flops = step_bytes(function), step_flops(function)
    full = empty + _cache_read(function, rows)
    kernels = sum(op.body is not None for op in function.ops)
    out = {"tokens": str(rows), "operations": str(sum(1 for _ in function.walk()))}
    if kernels:
        out["kernels"] = f"{kernels}, {distinct_kernels(module, function.name)} distinct"
    out["bytes moved"] = bytes_text(empty) + _each(bytes_text(empty // rows), rows)
    out["with full cache"] = bytes_text(full) + _each(bytes_text(full // rows), rows)
    out["computed"] = f"{count_text(flops)}flop" + _each(f"{count_text(flops / rows)}flop", rows) + ", cache full"
    if full:
        out["intensity"] = f"{flops / full:.3g} flop a byte, cache full"
    return out


def functions_table(module: Module, lower_bounds: Mapping[str, int]) -> str:
    """Each function's operations, kernels and arena against the least an arena could be."""
    rows: list[tuple[str, ...]] = []
    for f in module.functions.values():
        bound = lower_bounds.get(f.name)
        kernels = sum(op.body is not None for op in f.ops)
        arena = bytes_text(f.arena) if f.arena is not None else "-"
        ratio = f"{f.arena / bound:.3f}" if f.arena is not None and bound else "-"
        least = bytes_text(bound) if bound is not None else "-"
        rows.append((f.name, str(sum(1 for _ in f.walk())), str(kernels), arena, least, ratio))
    return _table(("function", "operations", "kernels", "arena", "lower bound", "ratio"), rows)


def passes_table(passes: Sequence[Mapping[str, object]]) -> str:
    """What each pass did; a dash where it changed nothing."""
    rows: list[tuple[str, ...]] = []
    for p in passes:
        numbers = [_plain(p.get(key, "-")) for key in ("rewrites", "ops", "kernels")]
        sizes = [_size(p.get(key)) for key in ("bytes_per_step", "arena")]
        rows.append((_plain(p.get("name", "")), *numbers, *sizes))
    return _table(("pass", "rewrites", "operations", "kernels", "bytes a step", "arena"), rows)


def _cache_read(function: Function, rows: int) -> int:
    """Bytes attention reads of full caches: every row's slot, one slot for consecutive rows; windows ignored."""
    state = next((s for s, _ in function.updates), None)
    if state is None:
        return 0
    slots = 1 if function.rows == "consecutive" else min(rows, state.type.shape[0])
    return slots * cached_bytes_per_position(function) * state.type.shape[2]


def _each(text: str, rows: int) -> str:
    return f", {text} a token" if rows > 1 else ""


def _size(value: object) -> str:
    return bytes_text(value) if isinstance(value, int) and value > 0 else "-"


def _worth_a_line(value: object) -> bool:
    """Whether a field of a configuration says anything: not what is off, empty or the default kind of something."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value).get("kind") != "default"
    return value is not None and value is not False and value not in ((), [])


def _plain(value: object) -> str:
    """A value on one line, whatever it holds."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        return ", ".join(f"{_plain(k)} {_plain(v)}" for k, v in fields.items())
    if value is True:
        return "yes"
    text = str(value)
    return text if text.isprintable() else repr(text)


def _section(title: str, body: str) -> str:
    return f"{title}\n{body}"


def _pairs(facts: Mapping[str, str]) -> str:
    width = max((len(k) for k in facts), default=0)
    return "".join(f"  {k:<{width}}  {v}\n" for k, v in facts.items())


def _table(head: Sequence[str], rows: Rows) -> str:
    """The first column left, numbers right."""
    widths = [max(len(r[i]) for r in (head, *rows)) for i in range(len(head))]
    out = ""
    for row in (head, *rows):
        cells = [f"{row[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))]
        out += f"  {'  '.join(cells)}".rstrip() + "\n"
    return out
