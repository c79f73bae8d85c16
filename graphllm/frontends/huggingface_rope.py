"""RoPE as ``config.json`` says it, in either of its two spellings.

Published files have ``rope_theta`` and ``rope_scaling``; transformers 5 writes both into ``rope_parameters``.
"""

from __future__ import annotations

import math

from graphllm.errors import CheckpointError
from graphllm.frontends.config import RopeScaling
from graphllm.frontends.json_fields import JsonFields

KINDS = ("default", "linear", "llama3", "yarn")
DEFAULT_THETA = 10000.0


def read_rope(config: JsonFields, context: int) -> tuple[float, RopeScaling]:
    """RoPE base and scaling."""
    said = config.object("rope_parameters") or config.object("rope_scaling")
    theta = config.number("rope_theta", DEFAULT_THETA, above=1)
    check_whole(config)
    if not said or not said.data:
        return theta, RopeScaling()
    if any(isinstance(value, dict) for value in said.data.values()):
        raise CheckpointError(f"{said.where}: a RoPE for each kind of layer is not supported; expected one for all")
    check_whole(said)
    theta = said.number("rope_theta", theta, above=1)
    return theta, read_scaling(said, config, context)


def check_whole(said: JsonFields) -> None:
    """Refuse RoPE over a part of each head."""
    if said.number("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{said.where}: partial_rotary_factor {said.data['partial_rotary_factor']} is not supported; expected 1"
        )


def read_scaling(said: JsonFields, config: JsonFields, context: int) -> RopeScaling:
    """The scaling of a ``rope_scaling`` or ``rope_parameters`` object."""
    key = "type" if said.data.get("rope_type") is None and "type" in said.data else "rope_type"
    if said.data.get(key) is None and "factor" in said.data:
        raise said.wrong(key, f"one of {', '.join(KINDS)}")
    kind = said.choice(key, "default", KINDS)
    if kind == "linear":
        return RopeScaling("linear", said.number("factor"))
    if kind == "llama3":
        scaling = RopeScaling(
            "llama3",
            factor=said.number("factor"),
            original_context=said.integer("original_max_position_embeddings"),
            low_freq_factor=said.number("low_freq_factor"),
            high_freq_factor=said.number("high_freq_factor"),
        )
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            raise said.wrong("high_freq_factor", f"more than low_freq_factor, {scaling.low_freq_factor:g}")
        return scaling
    if kind == "yarn":
        return read_yarn(said, config, context)
    return RopeScaling()


def read_yarn(said: JsonFields, config: JsonFields, context: int) -> RopeScaling:
    """YaRN, with every default resolved as transformers resolves it."""
    original = said.integer(
        "original_max_position_embeddings", config.integer("original_max_position_embeddings", context)
    )
    # The stated factor counts even where the context is not that many times the original: Qwen's own advice is to
    # add a factor and leave max_position_embeddings alone.
    factor = said.number("factor", context / original)
    beta_fast, beta_slow = said.number("beta_fast", 32.0), said.number("beta_slow", 1.0)
    if beta_slow >= beta_fast:
        raise said.wrong("beta_fast", f"more than beta_slow, {beta_slow:g}")
    return RopeScaling(
        "yarn",
        factor=factor,
        original_context=original,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        attention_factor=said.number("attention_factor", yarn_attention_factor(said, factor)),
        truncate=said.flag("truncate", True),
    )


def yarn_attention_factor(said: JsonFields, factor: float) -> float:
    """The temperature of Peng et al. 2023, or the ratio of two of them where the config has both mscales."""
    mscale, all_dim = said.number("mscale", 0.0, above=-1), said.number("mscale_all_dim", 0.0, above=-1)

    def temperature(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    return temperature(mscale) / temperature(all_dim) if mscale and all_dim else temperature(1.0)
