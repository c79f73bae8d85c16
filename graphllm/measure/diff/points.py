"""Places in a model where two ways of computing it can be held against each other, under the names people know.

A point is the output of a Hugging Face module, or its input (``….input``). Where there is no module (RoPE) the name is
ours. Our values carry their layer and what they are; several may be one point: ``l0.q`` is ``l0.q.flat`` in heads.
"""

from __future__ import annotations

from typing import Final

from graphllm.view.scope import layer_of_name, without_scope

_IN_LAYER: Final = {
    "h": "input_layernorm",
    "q.flat": "self_attn.q_proj",
    "q": "self_attn.q_proj",
    "k.flat": "self_attn.k_proj",
    "k": "self_attn.k_proj",
    "v.flat": "self_attn.v_proj",
    "v": "self_attn.v_proj",
    "q.normed": "self_attn.q_norm",
    "k.normed": "self_attn.k_norm",
    "q.turned": "self_attn.q_rotated",
    "k.turned": "self_attn.k_rotated",
    "att": "self_attn.o_proj.input",
    "att.flat": "self_attn.o_proj.input",
    "o": "self_attn.o_proj",
    "x.att": "post_attention_layernorm.input",
    "g": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "gate.silu": "mlp.act_fn",
    "up": "mlp.up_proj",
    "ffn": "mlp.down_proj.input",
    "down": "mlp.down_proj",
    "x.ffn": "",
}
_OUTSIDE: Final = {
    "x": "model.embed_tokens",
    "rope.turn": "model.rotary_emb",
    "final": "model.norm",
    "logits": "lm_head",
}
LOGITS: Final = "lm_head"
ROTATION: Final = "model.rotary_emb"
HEADS: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.q_norm", "self_attn.k_norm")
ROTATED: Final = ("self_attn.q_rotated", "self_attn.k_rotated")


def point_of(value: str) -> str | None:
    """The point that a value of ours is, None where it is none."""
    layer = layer_of_name(value)
    if layer is None:
        return _OUTSIDE.get(value)
    found = _IN_LAYER.get(without_scope(value))
    return None if found is None else f"model.layers.{layer}{'.' if found else ''}{found}"


def layer_of_point(point: str) -> int | None:
    """The layer a point lies in."""
    parts = point.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] and len(parts) > 2 and parts[2].isdigit() else None


def has_heads(point: str) -> bool:
    """Whether RoPE's layout decides in which order the elements of its heads stand."""
    return point.endswith((*HEADS, *ROTATED))
