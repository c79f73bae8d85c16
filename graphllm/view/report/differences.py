"""Two plans against each other: figures, the text of what runs, kernels and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from graphllm.ir.core import Module
from graphllm.ir.printer import print_function
from graphllm.view.report.passes import LineTable, changes, only_layers, shown_layers

Json = dict[str, Any]


def differences_json(first: Json, second: Json, modules: tuple[Module, Module], table: LineTable) -> Json:
    """What is other in the second plan; both as ``data`` describes them."""
    layers = shown_layers(modules[0]) | shown_layers(modules[1])
    names = list(dict.fromkeys([*modules[0].functions, *modules[1].functions]))
    texts = [
        {name: print_function(only_layers(f, layers)).splitlines() for name, f in m.functions.items()} for m in modules
    ]
    return {
        "figures": _figures(first, second),
        "sections": {
            name: [[mark, table.number(line)] for mark, line in changes(texts[0].get(name, []), texts[1].get(name, []))]
            for name in names
        },
        "weights": _weights(first["weights"], second["weights"]),
        "options": _fields(first["options"], second["options"]) + _fields(first["config"], second["config"]),
    }


def _figures(a: Json, b: Json) -> list[Json]:
    rows: list[Json] = []

    def row(what: str, x: object, y: object, unit: str) -> None:
        rows.append({"what": what, "first": x, "second": y, "unit": unit})

    row("target", a["target"], b["target"], "")
    for name in ("parameters",):
        row(name, a["overview"][name], b["overview"][name], "")
    row("weights", a["overview"]["weights"]["bytes"], b["overview"]["weights"]["bytes"], "bytes")
    row("KV cache", a["overview"]["cache"]["bytes"], b["overview"]["cache"]["bytes"], "bytes")
    row("context", a["overview"]["cache"]["context"], b["overview"]["cache"]["context"], "")
    row("arena", a["overview"]["arena"], b["overview"]["arena"], "bytes")
    steps = [{s["function"]: s for s in x["overview"]["steps"]} for x in (a, b)]
    for name in dict.fromkeys([*steps[0], *steps[1]]):
        x, y = steps[0].get(name, {}), steps[1].get(name, {})
        for key, unit in (("operations", ""), ("kernels", ""), ("bytes_empty", "bytes"), ("arena", "bytes")):
            row(f"@{name} {key.replace('_empty', ' a step')}", x.get(key), y.get(key), unit)
        if x.get("seconds_empty") and y.get("seconds_empty"):
            row(f"@{name} least time", x["seconds_empty"], y["seconds_empty"], "seconds")
    return rows


def _weights(first: Sequence[Json], second: Sequence[Json]) -> list[Json]:
    """Weights that one of the two has alone, or that differ in type."""
    known = [{w["name"]: w for w in side} for side in (first, second)]
    out: list[Json] = []
    for name in dict.fromkeys([*known[0], *known[1]]):
        pair = [side.get(name) for side in known]
        said = [None if w is None else {"dtype": w["dtype"], "shape": w["shape"], "bytes": w["bytes"]} for w in pair]
        if said[0] != said[1]:
            out.append({"name": name, "first": said[0], "second": said[1]})
    return out


def _fields(first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = "") -> list[Json]:
    out: list[Json] = []
    for name in dict.fromkeys([*first, *second]):
        x, y = first.get(name), second.get(name)
        if isinstance(x, dict) and isinstance(y, dict):
            out += _fields(cast("Json", x), cast("Json", y), f"{prefix}{name}.")
        elif x != y:
            out.append({"name": f"{prefix}{name}", "first": x, "second": y})
    return out
