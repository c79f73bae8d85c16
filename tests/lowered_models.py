"""Lowered modules of the zoo, with every way a weight may be stored.

``lowered("plain", "int8")`` traces, optimises and lowers a model once; ``device`` and ``engine`` run it as a plan
would, straight from arrays, on NumPy; ``tests.cpu_models`` does so in native code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.codegen.kernels.numpy.convert import expanded, tile_rows
from graphllm.codegen.numpy.generate import generate
from graphllm.codegen.numpy.target import NUMPY
from graphllm.compiler.compile import lower
from graphllm.compiler.link_numpy import narrow_matrices
from graphllm.compiler.weights import WeightReader
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.trace import Steps, trace
from graphllm.ir.core import Module, Weight
from graphllm.ir.target import Target
from graphllm.ir.types import NUMPY_DTYPES, DType, TensorType
from graphllm.passes.pipeline import lowering, portable
from graphllm.runtime.engine import Engine
from graphllm.runtime.numpy_device import NumpyDevice
from tests.model_zoo import ZOO, random_tensors

Array = NDArray[Any]
Storage = Literal["f32", "bf16", "f16", "int8", "flat"]
STORAGES: tuple[Storage, ...] = ("f32", "bf16", "f16", "int8", "flat")
GROUP = 12  # divides no row of most models: the last group of a row is short


@dataclass(frozen=True, eq=False)
class Lowered:
    """A lowered module with the arrays behind its weights."""

    config: ModelConfig
    module: Module
    weights: Mapping[str, Array]  # by the name the module stores them under
    tensors: Mapping[str, Array]  # the checkpoint's, as f32, after rounding to how they are stored

    @property
    def narrow(self) -> frozenset[str]:
        """Every stored matrix that can be converted tile by tile."""
        return frozenset(narrow_matrices(self.module))


@lru_cache(maxsize=64)
def lowered(
    name: str,
    storage: Storage = "f32",
    kv_dtype: DType = "f32",
    slots: int = 4,
    context: int = 48,
    seed: int = 0,
    target: Target = NUMPY,
    prefill: tuple[int, ...] = (8, 32),
) -> Lowered:
    """A model of the zoo, compiled. Batches of 2 and 4 rows."""
    config = ZOO[name]
    stored, group = store(random_tensors(config, seed), storage)
    kinds: dict[np.dtype[Any], DType] = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
    tensors = {n: Weight(n, TensorType(kinds[a.dtype], a.shape), None, n) for n, a in stored.items()}
    steps = Steps(context, slots, kv_dtype, prefill=prefill, score=13)
    _, module, _ = lower(trace(config, tensors, group, steps), portable(), lowering(target))
    read = WeightReader(lambda w: stored[w.name], lambda: None)
    return Lowered(config, module, {w.name: read(w) for w in module.stored_weights()}, as_f32(stored, group))


def store(tensors: Mapping[str, Array], storage: Storage) -> tuple[dict[str, Array], int]:
    """Matrices as they are stored, norms and biases in f32; and the size of int8 groups."""
    out: dict[str, Array] = {}
    group = {"int8": GROUP, "flat": tensors["norm"].size}.get(storage, 0)  # flat groups straddle the rows of w_down
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or storage == "f32":
            out[name] = tensor
        elif storage in ("bf16", "f16"):
            out[name] = tensor.astype(ml_dtypes.bfloat16 if storage == "bf16" else np.float16)
        else:
            padded = tensor
            if storage == "int8":
                padded = np.pad(tensor, ((0, 0), (0, -tensor.shape[1] % group)))
            groups = padded.reshape(-1, group)
            scale = np.abs(groups).max(axis=1) / np.float32(127)
            q = np.round(groups / scale[:, None]).astype(np.int8).reshape(padded.shape)
            out[name] = np.ascontiguousarray(q[:, : tensor.shape[1]])
            out[f"{name}.scale"] = scale.reshape(len(tensor), -1) if storage == "int8" else scale
    return out, group


def as_f32(stored: Mapping[str, Array], group: int) -> dict[str, Array]:
    """What the stored tensors say."""
    out: dict[str, Array] = {}
    for name, tensor in stored.items():
        if name.endswith(".scale"):
            continue
        wide = tensor.astype(np.float32)
        if (scale := stored.get(f"{name}.scale")) is not None:
            spread = np.repeat(scale, group, axis=-1)
            wide *= spread.reshape(wide.shape) if scale.ndim == 1 else spread[:, : wide.shape[1]]
        out[name] = wide
    return out


def device(model: Lowered, *, tiled: bool = False, poison: bool = False) -> NumpyDevice:
    """The model on NumPy; ``tiled`` converts every narrow matrix as it is read."""
    names = model.narrow if tiled else frozenset[str]()
    rooms = [model.weights[n] for n in names]
    floats = max((tile_rows(w.shape, model_group(model)) * w.shape[1] for w in rooms), default=0)
    source = generate(model.module, names)
    return NumpyDevice(model.module, source, model.weights.__getitem__, expanded, tile_floats=floats, poison=poison)


def model_group(model: Lowered) -> int:
    """The size of a module's int8 groups, 0 where it has none."""
    ops = (op for f in model.module.functions.values() for op in f.walk())
    return next((int(str(op.attrs["group"])) for op in ops if op.name == "dequantize"), 0)


def engine(model: Lowered, *, tiled: bool = False, poison: bool = False) -> Engine:
    return Engine(device(model, tiled=tiled, poison=poison), model.module)
