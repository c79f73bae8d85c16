"""A real plan of a very small model, and ways to forge others from it with every digest in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphllm
from graphllm.ir.types import NUMPY_DTYPES
from graphllm.plan.container import TensorSpec
from graphllm.plan.plan_file import PlanFile, write_plan
from graphllm.plan.tokenizer_data import TokenizerData
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors

SMALL = replace(ZOO["one_layer"], dim=8, heads=2, kv_heads=1, head_dim=4, ffn_dim=8, vocab=11, context=16)
LOWERED = "lowered/numpy"


def small_plan(folder: Path, name: str = "small.gllm", **options: Any) -> Path:
    """Under 50 kB: one layer, compiled like any other."""
    if not (folder / "model").exists():
        write_huggingface(folder / "model", SMALL, random_tensors(SMALL, 1))
    return graphllm.compile(folder / "model", folder / name, **options).path


def forged(
    plan: Path,
    out: Path,
    *,
    texts: Mapping[str, str | None] | None = None,
    documents: Mapping[str, Any] | None = None,
    weights: Mapping[str, NDArray[Any] | None] | None = None,
    tokenizer: TokenizerData | None = None,
) -> Path:
    """The plan with other texts, documents or weights (None removes one), written as our own writer does it."""
    kinds = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
    with PlanFile.open(plan) as old:
        arrays = {name: np.array(old.weight(name)) for name in old.weights}
        arrays = {k: v for k, v in {**arrays, **(weights or {})}.items() if v is not None}
        write_plan(
            out,
            texts={k: v for k, v in {**old.sections, **(texts or {})}.items() if v is not None},
            documents={k: v for k, v in {**old.documents, **(documents or {})}.items() if v is not None},
            tokenizer=tokenizer or old.tokenizer,
            weights=[TensorSpec(name, kinds[array.dtype], array.shape) for name, array in arrays.items()],
            read_weight=arrays.__getitem__,
        )
    return out


def edited(plan: Path, out: Path, edit: Callable[[str], str], section: str = LOWERED) -> Path:
    """The plan with a text of its own, edited; the edit must change something."""
    with PlanFile.open(plan) as old:
        text = old.sections[section]
    new = edit(text)
    assert new != text
    return forged(plan, out, texts={section: new})
