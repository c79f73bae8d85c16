"""The oracle: a whole-sequence forward pass in float64, written only for the tests and in the most obvious way.

It shares no code and no cleverness with the product: no cache, one position and one head at a time, straight from the
formulas. ``test_reference_forward.py`` proves it against golden outputs of independent implementations; everything else
is then proved against it. Tensors carry the canonical names of ``graphllm/frontends/checkpoint.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphllm.frontends.config import ModelConfig

F64 = NDArray[np.float64]
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Reference:
    """Everything one forward pass over T ids computes."""

    hidden: dict[str, F64]  # embed, layer0, ..., final_norm: each [T, D]
    attention: list[F64]  # per layer, probabilities [H, T, T], zero where a position is not seen
    logits: F64  # [T, V]; row t is the prediction after ids[: t + 1]


def reference_logits(config: ModelConfig, tensors: Tensors, ids: Sequence[int]) -> F64:
    """Logits [T, V] of every position."""
    return reference_forward(config, tensors, ids).logits


def reference_hidden(config: ModelConfig, tensors: Tensors, ids: Sequence[int]) -> dict[str, F64]:
    """The residual stream [T, D]: ``embed``, after each block ``layer0``.., and ``final_norm``."""
    return reference_forward(config, tensors, ids).hidden


def reference_greedy(config: ModelConfig, tensors: Tensors, prompt_ids: Sequence[int], n: int) -> list[int]:
    """Exactly n ids after the prompt, each the lowest id among the largest logits; nothing stops it early."""
    ids = list(prompt_ids)
    for _ in range(n):
        ids.append(int(np.argmax(reference_logits(config, tensors, ids)[-1])))
    return ids[len(prompt_ids) :]


def reference_nll(config: ModelConfig, tensors: Tensors, ids: Sequence[int]) -> F64:
    """Nats [T - 1]: element t is -log P(ids[t + 1] | ids[: t + 1])."""
    logits = reference_logits(config, tensors, ids[:-1])
    return np.array([log_sum_exp(row) - row[following] for row, following in zip(logits, ids[1:], strict=True)])


def reference_forward(config: ModelConfig, tensors: Tensors, ids: Sequence[int]) -> Reference:
    """One pass over all ids, positions 0..T-1."""
    weights = {name: np.asarray(tensor).astype(np.float64) for name, tensor in tensors.items()}
    stream: list[F64] = [weights["tok_emb"][token].copy() for token in ids]
    hidden = {"embed": np.array(stream)}
    attention: list[F64] = []

    for layer in range(config.layers):
        w = {name.removeprefix(f"l{layer}."): t for name, t in weights.items() if name.startswith(f"l{layer}.")}

        normed = [rms_norm(x, w["att_norm"], config.norm_eps) for x in stream]
        mixed, probabilities = self_attention(config, w, normed, config.window(layer))
        stream = [x + y for x, y in zip(stream, mixed, strict=True)]
        attention.append(probabilities)

        normed = [rms_norm(x, w["ffn_norm"], config.norm_eps) for x in stream]
        stream = [x + feed_forward(w, y) for x, y in zip(stream, normed, strict=True)]
        hidden[f"layer{layer}"] = np.array(stream)

    final = [rms_norm(x, weights["norm"], config.norm_eps) for x in stream]
    hidden["final_norm"] = np.array(final)
    classifier = weights["tok_emb"] if config.tied else weights["lm_head"]
    return Reference(hidden, attention, np.array([classifier @ x for x in final]))


def self_attention(config: ModelConfig, w: Mapping[str, F64], xs: list[F64], window: int) -> tuple[list[F64], F64]:
    """Attention of one layer over normed rows; also its probabilities [H, T, T]."""
    length, size = len(xs), config.head_dim
    queries = [linear(x, w["wq"], w.get("bq")).reshape(config.heads, size) for x in xs]
    keys = [linear(x, w["wk"], w.get("bk")).reshape(config.kv_heads, size) for x in xs]
    values = [linear(x, w["wv"], w.get("bv")).reshape(config.kv_heads, size) for x in xs]

    frequencies, magnitude = rope_frequencies(config)
    for position in range(length):
        for vectors, norm in ((queries[position], "q_norm"), (keys[position], "k_norm")):
            for head in range(len(vectors)):
                if config.qk_norm:
                    vectors[head] = rms_norm(vectors[head], w[norm], config.norm_eps)
                vectors[head] = rotate(vectors[head], position, frequencies, magnitude, config.rope_pairing)

    probabilities = np.zeros((config.heads, length, length))
    outputs: list[F64] = []
    for i in range(length):
        first = max(0, i - window + 1) if window else 0
        seen = range(first, i + 1)
        gathered = np.zeros((config.heads, size))
        for head in range(config.heads):
            kv_head = head // (config.heads // config.kv_heads)
            scores = np.array([queries[i][head] @ keys[j][kv_head] for j in seen]) / math.sqrt(size)
            p = softmax(scores)
            probabilities[head, i, first : i + 1] = p
            for j in seen:
                gathered[head] += p[j - first] * values[j][kv_head]
        outputs.append(linear(gathered.reshape(config.heads * size), w["wo"], w.get("bo")))
    return outputs, probabilities


def feed_forward(w: Mapping[str, F64], x: F64) -> F64:
    """SwiGLU of one row."""
    gate = linear(x, w["w_gate"], w.get("b_gate"))
    up = linear(x, w["w_up"], w.get("b_up"))
    return linear(gate / (1.0 + np.exp(-gate)) * up, w["w_down"], w.get("b_down"))


def linear(x: F64, weight: F64, bias: F64 | None) -> F64:
    return weight @ x if bias is None else weight @ x + bias


def rms_norm(x: F64, weight: F64, eps: float) -> F64:
    return weight * x / math.sqrt(float(np.mean(x * x)) + eps)


def softmax(scores: F64) -> F64:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def log_sum_exp(row: F64) -> float:
    return float(row.max()) + math.log(float(np.exp(row - row.max()).sum()))


def rotate(vector: F64, position: int, frequencies: list[float], magnitude: float, pairing: str) -> F64:
    """RoPE on one head: pair i turns by position * frequencies[i]."""
    turned = np.empty_like(vector)
    half = len(vector) // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if pairing == "interleaved" else (i, i + half)
        cos = magnitude * math.cos(position * frequencies[i])
        sin = magnitude * math.sin(position * frequencies[i])
        turned[a] = vector[a] * cos - vector[b] * sin
        turned[b] = vector[a] * sin + vector[b] * cos
    return turned


def rope_frequencies(config: ModelConfig) -> tuple[list[float], float]:
    """Radians per position of each of the d/2 pairs, and what cos and sin are multiplied by."""
    size, scaling = config.head_dim, config.rope_scaling
    plain = [config.rope_theta ** (-2.0 * i / size) for i in range(size // 2)]
    match scaling.kind:
        case "default":
            return plain, 1.0
        case "linear":
            return [f / scaling.factor for f in plain], 1.0
        case "llama3":
            return [llama3_frequency(config, f) for f in plain], 1.0
        case "yarn":
            low, high = yarn_range(config)
            blended: list[float] = []
            for i, f in enumerate(plain):
                slowed = min(1.0, max(0.0, (i - low) / (high - low)))
                blended.append(slowed * f / scaling.factor + (1.0 - slowed) * f)
            return blended, scaling.attention_factor


def llama3_frequency(config: ModelConfig, frequency: float) -> float:
    """Short waves stay, waves longer than the trained context slow down, those between are blended."""
    scaling = config.rope_scaling
    wavelength = 2.0 * math.pi / frequency
    if wavelength < scaling.original_context / scaling.high_freq_factor:
        return frequency
    if wavelength > scaling.original_context / scaling.low_freq_factor:
        return frequency / scaling.factor
    turns = scaling.original_context / wavelength
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return (1.0 - kept) * frequency / scaling.factor + kept * frequency


def yarn_range(config: ModelConfig) -> tuple[float, float]:
    """The pairs between which YaRN blends: where the trained context holds beta_fast and beta_slow turns."""
    scaling = config.rope_scaling

    def pair_with_turns(turns: float) -> float:
        period = scaling.original_context / (turns * 2.0 * math.pi)
        return config.head_dim * math.log(period) / (2.0 * math.log(config.rope_theta))

    low, high = pair_with_turns(scaling.beta_fast), pair_with_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.head_dim - 1)
    return low, high + 0.001 if low == high else high
