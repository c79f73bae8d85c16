"""Values as the transformers library computes them in f32, where it and torch are installed.

Outputs of modules are caught by hooks; queries and keys after RoPE, which no module makes, where the model's own file
calls ``apply_rotary_pos_emb``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from graphllm.errors import GraphLLMError
from graphllm.measure.diff.trace import Trace

_INPUTS: Final = ("self_attn.o_proj", "post_attention_layernorm", "mlp.down_proj")
_ROPE: Final = "apply_rotary_pos_emb"


def in_transformers(folder: Path, ids: Sequence[int]) -> Trace:
    """Run a Hugging Face folder on some tokens.

    Raises:
        GraphLLMError: torch or transformers is not installed, or does not take the folder.
    """
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise GraphLLMError(f"transformers: {missing[0]} is not installed; pip install torch transformers")
    if not folder.is_dir():
        raise GraphLLMError(f"transformers: {folder}: expected a Hugging Face folder")
    torch, transformers = import_module("torch"), import_module("transformers")
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
    except Exception as error:  # whatever the library raises is about the folder
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GraphLLMError(f"transformers: {folder}: {line[:200]}") from None
    trace = Trace("transformers", 0.0)
    caught: dict[str, Any] = {}
    hooks = [
        module.register_forward_hook(_catcher(name, caught)) for name, module in model.named_modules() if name != ""
    ]
    modeling: Any = sys.modules[type(model).__module__]
    rope = getattr(modeling, _ROPE, None)
    layer = [0]

    def turned(q: Any, k: Any, *rest: Any, **more: Any) -> Any:
        assert rope is not None
        out = rope(q, k, *rest, **more)
        for part, heads in zip("qk", out, strict=False):
            rows = heads[0].transpose(0, 1)  # [H,T,d] -> [T,H,d]
            caught[f"model.layers.{layer[0]}.self_attn.{part}_rotated"] = rows.reshape(rows.shape[0], -1)
        layer[0] += 1
        return out

    if rope is not None:
        setattr(modeling, _ROPE, turned)
    try:
        with torch.no_grad():
            model(torch.tensor([list(ids)]), use_cache=False)
    finally:
        if rope is not None:
            setattr(modeling, _ROPE, rope)
        for hook in hooks:
            hook.remove()
    for name, value in caught.items():
        array = np.asarray(value.detach().to(torch.float32).numpy())
        rows = array.reshape(len(ids), -1) if array.size % len(ids) == 0 else None
        if rows is not None:
            trace.add(name, rows)
    return trace


def _catcher(name: str, caught: dict[str, Any]) -> Any:
    """A hook that keeps a module's output, and its input where that has a name of its own."""

    def hook(module: Any, given: Any, out: Any) -> None:
        if name.endswith(_INPUTS):
            caught[f"{name}.input"] = given[0]
        value: Any = cast("Any", out)[0] if isinstance(out, tuple) else out
        if name == "model.rotary_emb":
            both: list[Any] = [part[0, :, : part.shape[-1] // 2] for part in cast("list[Any]", out)]
            caught[name] = import_module("torch").stack(both, dim=-1)
        elif hasattr(value, "detach"):
            caught[name] = value

    return hook
