"""How a function is drawn: runs of equal layers, and which of its operations repeat which."""

from __future__ import annotations

from typing import Any

from graphllm.ir.core import Function
from graphllm.view.fold import fold_layers, signature
from graphllm.view.scope import layer_of

Json = dict[str, Any]


def structure_json(function: Function) -> Json:
    """Segments in program order, by places of operations in the function; and for each its layer and its like.

    ``like`` numbers distinct kernels: operations of one number do the same to values of the same types.
    """
    place = {id(op): i for i, op in enumerate(function.ops)}
    likes: dict[tuple[str, ...], int] = {}
    return {
        "segments": [
            {
                "layers": [list(layers) for layers in segment.layers if layers],
                "units": [[place[id(op)] for op in unit] for unit in segment.units],
            }
            for segment in fold_layers(function)
        ],
        "layer": [-1 if (layer := layer_of(op)) is None else layer for op in function.ops],
        "like": [likes.setdefault(signature((op,)), len(likes)) for op in function.ops],
    }
