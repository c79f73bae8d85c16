"""A folder of arrays, one .npy a point: ``model.layers.0.self_attn.q_proj.npy`` f32 [T, …]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from graphllm.errors import GraphLLMError
from graphllm.measure.diff.compare import half_split
from graphllm.measure.diff.points import has_heads
from graphllm.measure.diff.trace import Trace
from graphllm.plan.place import refusal, shown

_NAME: Final = re.compile(r"[A-Za-z0-9_.]{1,200}")


def write_dump(trace: Trace, folder: Path, head: int) -> int:
    """Write every point; how many. Heads are written in Hugging Face's order, whatever RoPE's layout was.

    Raises GraphLLMError where the folder cannot be written.
    """
    source = trace.source
    turned = source is not None and any(
        op.attrs["pairing"] == "interleaved" for op in source.function.walk() if op.name == "rope"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for point, values in trace.values.items():
            assert _NAME.fullmatch(point)
            array = half_split(values, head) if turned and has_heads(point) else values
            np.save(folder / f"{point}.npy", array, allow_pickle=False)
    except OSError as error:
        raise GraphLLMError(f"dump {shown(folder)}: cannot be written; {refusal(error)}") from None
    return len(trace.values)


def read_dump(folder: Path) -> Trace:
    """The points of a folder, in the order of their names. Raises GraphLLMError for what is not such a folder."""
    trace = Trace(folder.name, 0.0)
    for path in sorted(folder.glob("*.npy")):
        if not _NAME.fullmatch(path.stem):
            continue
        try:
            array = cast("NDArray[Any]", np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError):
            raise GraphLLMError(f"{shown(path)}: not an array that NumPy reads") from None
        if array.dtype.kind not in "fiu" or array.ndim < 2:
            kind = f"{array.dtype}{list(array.shape)}"
            raise GraphLLMError(f"{shown(path)}: {kind}; expected numbers of two dimensions or more, tokens first")
        if array.ndim > 2 and array.shape[0] == 1:
            array = array[0]  # a batch of one
        trace.add(path.stem, array.reshape(array.shape[0], -1))
    if not trace.values:
        raise GraphLLMError(f"{shown(folder)}: no .npy files in it; expected a folder that diff --dump wrote")
    return trace
