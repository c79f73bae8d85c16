"""A GGUF file as a checkpoint: Llama and Qwen architectures, with the tokenizer that the file holds.

F32, F16 and BF16 stay what they are. Q8_0 is int8 groups of 32 and stays that, without a second rounding. Other block
formats are multiplied out to f32, exactly, and a note says so; what a plan stores them as is then asked for like that
of any other matrix.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from graphllm.errors import CheckpointError
from graphllm.frontends import gguf_blocks as blocks
from graphllm.frontends.checkpoint import Checkpoint, StoredDType, TensorSource
from graphllm.frontends.gguf_config import gguf_config
from graphllm.frontends.gguf_file import GgufFile, GgufTensor, parse_gguf
from graphllm.frontends.gguf_tokenizer import gguf_tokenizer
from graphllm.frontends.mapped_file import MappedFile
from graphllm.frontends.overrides import NO_OVERRIDES, Overrides
from graphllm.frontends.sizes import tensor_shapes, without_foreign_ids

NAMES = {"tok_emb": "token_embd.weight", "norm": "output_norm.weight", "lm_head": "output.weight"}
LAYER_NAMES = {
    "att_norm": "attn_norm.weight",
    "wq": "attn_q.weight",
    "wk": "attn_k.weight",
    "wv": "attn_v.weight",
    "wo": "attn_output.weight",
    "bq": "attn_q.bias",
    "bk": "attn_k.bias",
    "bv": "attn_v.bias",
    "bo": "attn_output.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    "w_gate": "ffn_gate.weight",
    "w_up": "ffn_up.weight",
    "w_down": "ffn_down.weight",
    "b_gate": "ffn_gate.bias",
    "b_up": "ffn_up.bias",
    "b_down": "ffn_down.bias",
    "router": "ffn_gate_inp.weight",
    "x_gate": "ffn_gate_exps.weight",
    "x_up": "ffn_up_exps.weight",
    "x_down": "ffn_down_exps.weight",
}
ROPE_FACTORS = "rope_freqs.weight"
FLOATS: dict[int, tuple[StoredDType, np.dtype[Any]]] = {
    blocks.F32: ("f32", np.dtype("<f4")),
    blocks.F16: ("f16", np.dtype("<f2")),
    blocks.BF16: ("bf16", np.dtype(ml_dtypes.bfloat16)),
}
GROUP = 32  # of Q8_0


def read_gguf_checkpoint(mapped: MappedFile, overrides: Overrides = NO_OVERRIDES) -> Checkpoint:
    """The checkpoint of a GGUF file. Overrides win over what it says."""
    file = parse_gguf(mapped)
    if not file.tensors:
        raise CheckpointError(
            f"{mapped.path}: a GGUF file without tensors; expected a model (as a tokenizer it will do)"
        )
    config, notes = gguf_config(file)
    tokenizer, special = gguf_tokenizer(file)
    config = overrides.apply(replace(config, bos_id=special.bos, eos_ids=special.eos))
    config, dropped = without_foreign_ids(config)
    tensors: dict[str, TensorSource] = {}
    kinds: Counter[str] = Counter()
    for name, shape in tensor_shapes(config).items():
        stored = stored_name(name)
        if stored not in file.tensors:
            raise CheckpointError(
                f"{mapped.path}: tensor {stored} is missing; expected it in a {config.family} model of "
                f"{config.layers} layers"
            )
        entry = file.tensors[stored]
        found = (prod(entry.shape[:-1]), entry.shape[-1]) if len(entry.shape) == 3 else entry.shape
        if found != shape:
            raise CheckpointError(
                f"{mapped.path}: {stored} has shape {list(entry.shape)}; expected {list(shape)} by the file's own sizes"
            )
        tensors |= sources(file, name, stored, entry, shape)
        if entry.type in blocks.MULTIPLIED:
            kinds[entry.type_name] += 1
    used = {stored_name(name) for name in tensors if not name.endswith(".scale")} | {ROPE_FACTORS}
    unused = [name for name in file.tensors if name not in used]
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        dropped += (f"tensors that the model does not use: {', '.join(n[:60] for n in unused[:3])}{more}",)
    if kinds:
        what = ", ".join(f"{count} in {kind}" for kind, count in sorted(kinds.items()))
        dropped += (f"multiplied out to f32, exactly: {what}; --dtype and --quantize say what is stored instead",)
    group = GROUP if any(source.dtype == "i8" for source in tensors.values()) else 0
    notes = (*notes, *dropped)
    return Checkpoint("gguf", config, tensors, (mapped.path,), (mapped,), group, tokenizer, notes)


def stored_name(name: str) -> str:
    """A canonical name as GGUF files spell it."""
    layer, _, part = name.rpartition(".")
    return f"blk.{layer[1:]}.{LAYER_NAMES[part]}" if layer else NAMES[part]


def sources(
    file: GgufFile, name: str, stored: str, entry: GgufTensor, shape: tuple[int, ...]
) -> dict[str, TensorSource]:
    """A tensor to read, with its scales where it is int8."""
    mapped = file.file
    if entry.type in FLOATS:
        dtype, array_dtype = FLOATS[entry.type]
        return {name: TensorSource(stored, dtype, shape, partial(mapped.view, entry.begin, array_dtype, shape))}
    if len(shape) != 2 or entry.type not in (blocks.Q8_0, *blocks.MULTIPLIED):
        kinds = (*FLOATS, blocks.Q8_0, *blocks.MULTIPLIED) if len(shape) == 2 else tuple(FLOATS)
        expected = ", ".join(blocks.TYPE_NAMES[kind] for kind in kinds)
        raise CheckpointError(f"{mapped.path}: {stored} has type {entry.type_name}; expected one of {expected}")
    if entry.type == blocks.Q8_0:
        scales = (shape[0], shape[1] // GROUP)
        values = partial(int8_rows, mapped, entry, shape)
        finite = partial(scale_rows, mapped, stored, entry, shape)
        return {
            name: TensorSource(stored, "i8", shape, partial(values, 0, shape[0]), values),
            f"{name}.scale": TensorSource(f"{stored} scales", "f16", scales, partial(finite, 0, shape[0]), finite),
        }
    rows = partial(float_rows, mapped, stored, entry, shape)
    return {name: TensorSource(stored, "f32", shape, partial(rows, 0, shape[0]), rows)}


def raw_rows(file: MappedFile, entry: GgufTensor, shape: tuple[int, ...], begin: int, end: int) -> NDArray[np.uint8]:
    """The bytes of some rows, a view."""
    size = blocks.row_bytes(entry.type, shape[1])
    assert size is not None
    end = min(end, shape[0])
    return file.view(entry.begin + begin * size, np.dtype("u1"), (end - begin, size))


def int8_rows(file: MappedFile, entry: GgufTensor, shape: tuple[int, ...], begin: int, end: int) -> NDArray[Any]:
    return blocks.q8_0_values(raw_rows(file, entry, shape, begin, end), shape[1])


def scale_rows(
    file: MappedFile, stored: str, entry: GgufTensor, shape: tuple[int, ...], begin: int, end: int
) -> NDArray[Any]:
    return finite(blocks.q8_0_scales(raw_rows(file, entry, shape, begin, end), shape[1]), file, stored)


def float_rows(
    file: MappedFile, stored: str, entry: GgufTensor, shape: tuple[int, ...], begin: int, end: int
) -> NDArray[Any]:
    with np.errstate(invalid="ignore", over="ignore"):
        out = blocks.multiplied_out(entry.type, raw_rows(file, entry, shape, begin, end), shape[1])
    return finite(out, file, stored)


def finite(values: NDArray[Any], file: MappedFile, stored: str) -> NDArray[Any]:
    """The values, unless a block's scale is NaN or infinite, which no program writes."""
    if not np.isfinite(values).all():
        raise CheckpointError(f"{file.path}: the scales of {stored} hold NaN or infinity; expected finite numbers")
    return values
