"""The table of weights: what is stored, what of the checkpoint it was made from, and what rounding cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphllm.ir.core import Module, Weight
from graphllm.view.report.subject import TensorCost
from graphllm.view.scope import layer_of_name

Json = dict[str, Any]


def weights_json(module: Module, costs: Mapping[str, TensorCost]) -> list[Json]:
    """Every stored weight, in the plan's order."""
    return [_weight(w, costs.get(w.name)) for w in module.stored_weights()]


def _weight(weight: Weight, cost: TensorCost | None) -> Json:
    origins, made_by = _origins(weight)
    out: Json = {
        "name": weight.name,
        "layer": -1 if (layer := layer_of_name(weight.name)) is None else layer,
        "dtype": weight.type.dtype,
        "shape": list(weight.type.shape),
        "bytes": weight.type.bytes,
        "made_by": made_by,
        "from": [
            {"name": w.name, "source": w.source, "dtype": w.type.dtype, "shape": list(w.type.shape)} for w in origins
        ],
    }
    if cost is not None:
        out |= {"error": cost.relative, "largest_error": cost.largest}
    return out


def _origins(weight: Weight) -> tuple[list[Weight], list[str]]:
    """The checkpoint's tensors that a weight is computed from, and the operations that do it, the last one first."""
    origins: dict[int, Weight] = {}
    made_by: list[str] = []
    waiting = [weight]
    seen: set[int] = set()
    while waiting:
        w = waiting.pop(0)
        if id(w) in seen:
            continue
        seen.add(id(w))
        if w.definition is None:
            origins[id(w)] = w
            continue
        made_by.append(w.definition.name)
        waiting += [v for v in w.definition.operands if isinstance(v, Weight)]
    return list(origins.values()), list(dict.fromkeys(made_by))
