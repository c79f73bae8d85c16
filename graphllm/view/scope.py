"""Which layer a name belongs to. Names carry their scope: values ``l0.q``, weights ``l0.wq``, states ``kv.0.k``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from graphllm.ir.core import Operation, Value

_SCOPE: Final = re.compile(r"(?:l|kv\.)(0|[1-9][0-9]{0,8})\.")


def layer_of_name(name: str) -> int | None:
    """The layer a value, weight or state says it is of; None for what all layers share."""
    match = _SCOPE.match(name)
    return int(match[1]) if match else None


def layers_of(op: Operation) -> set[int]:
    """The layers of an operation: those of its results' names, a kernel's inner values included."""
    return {layer for v in _made(op) if (layer := layer_of_name(v.name)) is not None}


def layer_of(op: Operation) -> int | None:
    """The one layer an operation is drawn in: the first of those it hands results to, None outside all layers."""
    named = (layer_of_name(v.name) for v in op.results)
    return next((layer for layer in named if layer is not None), min(layers_of(op), default=None))


def without_scope(name: str) -> str:
    """``q`` of ``l0.q``."""
    return _SCOPE.sub("", name, count=1)


def any_layer(name: str, first: int) -> str:
    """``l{i}.q`` of ``l0.q``, ``l{i+1}.q`` of ``l1.q``: a name in every repetition, ``first`` the drawn one's layer."""
    match = _SCOPE.match(name)
    if match is None:
        return name
    offset = int(match[1]) - first
    return f"{name[: match.start(1)]}{{i{f'{offset:+}' if offset else ''}}}{name[match.end(1) :]}"


def _made(op: Operation) -> Iterator[Value]:
    yield from op.results
    if op.body is not None:
        for inner in op.body.ops:
            yield from inner.results
