"""What a checkpoint does not say and a person may: eps, RoPE, context, special ids.

llama2.c's flat files hold sizes and weights and nothing else, and KuiperLLama writes the same bytes for models that
mean other RoPE; only the person knows. Presets name the known meanings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig, RopePairing, RopeScaling


@dataclass(frozen=True, slots=True)
class Overrides:
    """Fields of a ModelConfig to set whatever the checkpoint says; None leaves the checkpoint's own."""

    norm_eps: float | None = None
    rope_theta: float | None = None
    rope_pairing: RopePairing | None = None
    rope_scaling: RopeScaling | None = None
    context: int | None = None
    bos_id: int | None = None
    eos_ids: tuple[int, ...] | None = None

    def given(self) -> dict[str, Any]:
        """The fields that are set."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def on_top_of(self, other: Overrides) -> Overrides:
        """These where set, the other's elsewhere."""
        return replace(other, **self.given())

    def apply(self, config: ModelConfig) -> ModelConfig:
        """The config with these set; CheckpointError for a value that no model can have."""
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:
            raise CheckpointError(f"override norm_eps: {self.norm_eps}; expected a number between 0 and 1")
        if self.rope_theta is not None and not 1 < self.rope_theta < math.inf:
            raise CheckpointError(f"override rope_theta: {self.rope_theta}; expected a number above 1")
        if self.rope_pairing not in (None, "interleaved", "half"):
            raise CheckpointError(f"override rope_pairing: {self.rope_pairing!r}; expected 'interleaved' or 'half'")
        if self.context is not None and not 1 <= self.context < 2**31:
            raise CheckpointError(f"override context: {self.context}; expected between 1 and 2147483647 positions")
        for token in (*(self.eos_ids or ()), *(() if self.bos_id is None else (self.bos_id,))):
            if token < 0:
                raise CheckpointError(f"override of a special token: {token}; expected a token id of 0 or more")
        return replace(config, **self.given())


NO_OVERRIDES = Overrides()
LLAMA3_CONTEXT = 8192  # that Llama 3 was first trained on

# llama2.c itself stops on BOS: its stories follow one another with only BOS between. So BOS ends a text here too.
PRESETS: dict[str, Overrides] = {
    "llama2": Overrides(1e-5, 1e4, "interleaved", bos_id=1, eos_ids=(1, 2)),
    "llama3": Overrides(1e-5, 5e5, "interleaved", bos_id=128000, eos_ids=(128001, 128009)),
    "kuiper-llama3": Overrides(1e-5, 5e5, "half", bos_id=128000, eos_ids=(128001, 128009)),
    "kuiper-qwen2": Overrides(1e-6, 1e6, "half", eos_ids=(151643, 151645)),
}


def preset(name: str) -> Overrides:
    """The overrides of a named preset."""
    if name not in PRESETS:
        raise CheckpointError(f"preset {name!r}: unknown; expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def scaling_named(text: str) -> RopeScaling:
    """RoPE scaling as ``KIND:FACTOR[:S]``, S the context first trained on. CheckpointError for anything else."""
    kind, _, rest = text.partition(":")
    factor, _, original = rest.partition(":")
    try:
        if kind not in ("linear", "llama3", "yarn") or not 1 <= float(factor) < 1e6:
            raise ValueError
        trained = int(original) if original else LLAMA3_CONTEXT if kind == "llama3" else 0
        if kind == "yarn" and not 0 < trained < 2**31:
            raise ValueError
    except ValueError:
        raise CheckpointError(
            f"rope scaling {text[:60]!r}: expected llama3:FACTOR, linear:FACTOR or yarn:FACTOR:CONTEXT, as in llama3:32"
        ) from None
    temperature = 0.1 * math.log(float(factor)) + 1.0 if kind == "yarn" else 1.0
    return RopeScaling(kind, float(factor), trained, attention_factor=temperature)
