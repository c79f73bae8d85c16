"""What a model is, once every checkpoint format's own spelling has been read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RopePairing = Literal["interleaved", "half"]
RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How the RoPE frequencies are bent for long contexts. Unused fields keep their defaults.

    ``kind`` picks the formula: ``linear`` divides every frequency by ``factor``; ``llama3`` and ``yarn`` keep high
    frequencies, divide low ones, and blend between (Llama 3.1 report; Peng et al. 2023, arXiv:2309.00071).
    """

    kind: RopeKind = "default"
    factor: float = 1.0
    original_context: int = 0  # positions the model was first trained on (llama3, yarn)
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn: cos and sin are multiplied by it; the reader has resolved the default
    truncate: bool = True  # yarn: whether the blend's ends are rounded to whole dimensions


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One decoder-only transformer of the Llama shape. Letters are the project's alphabet for shapes.

    Every family (llama, mistral, mixtral, qwen2, qwen3, qwen3_moe) is this same shape with other flags.
    """

    family: str  # for people; nothing decides by it
    dim: int  # D
    layers: int  # L
    heads: int  # H
    kv_heads: int  # K, divides H
    head_dim: int  # d, even; H*d need not equal D
    ffn_dim: int  # F
    vocab: int  # V, rows of the embedding; may exceed the tokenizer's
    context: int  # S, the longest position the model claims
    norm_eps: float
    rope_theta: float
    rope_pairing: RopePairing
    rope_scaling: RopeScaling = RopeScaling()
    windows: tuple[int, ...] = ()  # per layer, 0 = full attention; () = all full
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each head's d values of q and k, before RoPE
    tied: bool = False  # the classifier is the embedding
    experts: int = 0  # E of each layer, of ffn_dim F each; 0: one feed-forward network and no router
    experts_used: int = 0  # by each token
    experts_normalized: bool = True  # the weights of those used add up to 1
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()

    def window(self, layer: int) -> int:
        """Sliding window of a layer in positions, 0 for full attention."""
        return self.windows[layer] if self.windows else 0
