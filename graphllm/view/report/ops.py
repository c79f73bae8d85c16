"""The rows of the op table that a report needs to print operations as text IR does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphllm.ir.core import Module
from graphllm.ir.opdef import lookup

Json = dict[str, Any]


def ops_json(modules: Sequence[Module]) -> Json:
    """Attributes of every operation that the modules have, by name: kind, and default where there is one."""
    names = {op.name for module in modules for f in module.functions.values() for op in f.walk()}
    return {
        name: {attr: {"kind": p.kind, "default": p.default} for attr, p in lookup(name).attrs.items()}
        for name in sorted(names)
    }
