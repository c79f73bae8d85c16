"""Operations that know positions: RoPE, the KV cache, attention."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from graphllm.ir.opdef import op
from graphllm.ir.ops.dense import summable
from graphllm.ir.ops.require import is_float, is_i32, rank, same_dtype, that
from graphllm.ir.types import TensorType

Array = NDArray[Any]

ATTENTION: Final = frozenset({"attention", "attention_int8"})  # operands: q, the caches, pos, slot


def _rope_frequencies_type(
    *,
    kind: str,
    pairs: int,
    theta: float,
    factor: float,
    original_context: int,
    low_freq_factor: float,
    high_freq_factor: float,
    beta_fast: float,
    beta_slow: float,
    truncate: bool,
) -> TensorType:
    that(kind in ("default", "linear", "llama3", "yarn"), "rope_frequencies", "kind", "a known scaling", kind)
    that(pairs > 0, "rope_frequencies", "pairs", "a positive number", pairs)
    that(theta > 1, "rope_frequencies", "theta", "a number above 1", theta)
    that(factor > 0, "rope_frequencies", "factor", "a positive number", factor)
    if kind in ("llama3", "yarn"):
        that(original_context > 0, "rope_frequencies", "original_context", "a positive number", original_context)
    if kind == "llama3":
        ok = 0 < low_freq_factor < high_freq_factor
        that(ok, "rope_frequencies", "low_freq_factor", "positive and below high_freq_factor", low_freq_factor)
    if kind == "yarn":
        ok = 0 < beta_slow <= beta_fast
        that(ok, "rope_frequencies", "beta_slow", "positive and not above beta_fast", beta_slow)
    return TensorType("f32", (pairs,))


@op(infer=_rope_frequencies_type)
def rope_frequencies(
    *,
    kind: str,
    pairs: int,
    theta: float,
    factor: float = 1.0,
    original_context: int = 0,
    low_freq_factor: float = 1.0,
    high_freq_factor: float = 4.0,
    beta_fast: float = 32.0,
    beta_slow: float = 1.0,
    truncate: bool = True,
) -> Array:
    """Angle a position for each of ``pairs`` pairs -> f32 [d/2].

    ``theta^(-2i/d)`` (Su et al. 2021, arXiv:2104.09864), then bent for long contexts as in transformers'
    ``modeling_rope_utils``: linear divides by ``factor``; llama3 divides the long wavelengths and blends between the
    two limits; yarn (Peng et al. 2023, arXiv:2309.00071) blends by the number of turns within ``original_context``.
    """
    i = np.arange(pairs, dtype=np.float64)
    # float32 powers, as the implementations that trained and published these models compute them
    freqs = (1.0 / np.float32(theta) ** (i / pairs).astype(np.float32)).astype(np.float32)
    if kind == "linear":
        freqs = freqs / np.float32(factor)
    elif kind == "llama3":
        wavelength = 2 * math.pi / freqs
        smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
        smooth = np.clip(smooth, 0.0, 1.0)
        freqs = (1 - smooth) * freqs / factor + smooth * freqs
    elif kind == "yarn":

        def pair_of(turns: float) -> float:
            """The (fractional) pair that makes ``turns`` turns within the original context."""
            return 2 * pairs * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair_of(beta_fast), pair_of(beta_slow)
        if truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        ramp = np.clip((i - low) / max(high - low, 0.001), 0, 1)
        freqs = freqs / factor * ramp + freqs * (1 - ramp)
    return freqs.astype(np.float32)


def _rotation_type(pos: TensorType, freqs: TensorType, *, scale: float) -> TensorType:
    is_i32("rotation", "pos", pos)
    rank("rotation", "pos", pos, 1)
    rank("rotation", "freqs", freqs, 1)
    that(freqs.dtype == "f32", "rotation", "freqs", "f32", freqs)
    that(math.isfinite(scale) and scale > 0, "rotation", "scale", "a positive number", scale)
    return TensorType("f32", (pos.shape[0], freqs.shape[0], 2))


@op(infer=_rotation_type, cost=lambda t, a: 3 * t[0].numel * t[1].numel)
def rotation(pos: Array, freqs: Array, *, scale: float = 1.0) -> Array:
    """``scale * (cos, sin)`` of ``pos * freqs``: [T], [d/2] -> [T,d/2,2]. Computed once a step, read by every layer."""
    angle = pos.astype(freqs.dtype)[:, None] * freqs
    return np.stack((np.cos(angle), np.sin(angle)), axis=-1) * freqs.dtype.type(scale)


def _rope_type(x: TensorType, rotation: TensorType, *, pairing: str) -> TensorType:
    same_dtype("rope", x, rotation)
    rank("rope", "x", x, 3)
    t, _, d = x.shape
    that(rotation.shape == (t, d // 2, 2) and d % 2 == 0, "rope", "rotation", f"[{t},{d // 2},2]", rotation)
    that(pairing in ("interleaved", "half"), "rope", "pairing", "interleaved or half", pairing)
    return x


@op(infer=_rope_type, cost=lambda t, a: 3 * t[0].numel, reuses=(0,))
def rope(x: Array, rotation: Array, *, pairing: str) -> Array:
    """Turn each pair of each head of ``x`` [T,H,d] by ``rotation`` [T,d/2,2] (Su et al. 2021, arXiv:2104.09864).

    ``interleaved``: pairs are (x[2i], x[2i+1]), as Meta's code has them. ``half``: (x[i], x[i+d/2]), as Hugging Face's.
    """
    t, h, d = x.shape
    cos, sin = rotation[:, None, :, 0], rotation[:, None, :, 1]
    pairs = x.reshape(t, h, d // 2, 2) if pairing == "interleaved" else x.reshape(t, h, 2, d // 2).swapaxes(2, 3)
    u, v = pairs[..., 0], pairs[..., 1]
    turned = np.stack((u * cos - v * sin, u * sin + v * cos), axis=-1)
    return (turned if pairing == "interleaved" else turned.swapaxes(2, 3)).reshape(x.shape)


def _rows_type(op: str, pos: TensorType, slot: TensorType, t: int) -> None:
    for what, x in (("pos", pos), ("slot", slot)):
        that(x == TensorType("i32", (t,)), op, what, f"i32[{t}]", x)


def _kv_write_type(cache: TensorType, x: TensorType, pos: TensorType, slot: TensorType) -> TensorType:
    rank("kv_write", "cache", cache, 4)
    rank("kv_write", "x", x, 3)
    if cache.dtype == "i8":
        that(x.dtype == "i8", "kv_write", "x", "i8 as the cache", x)
    else:
        is_float("kv_write", "cache", cache)
        is_float("kv_write", "x", x)
    _, k, _, d = cache.shape
    that(x.shape[1:] == (k, d), "kv_write", "x", f"[T,{k},{d}]", x)
    _rows_type("kv_write", pos, slot, x.shape[0])
    return cache


@op(infer=_kv_write_type, updates=0)
def kv_write(cache: Array, x: Array, pos: Array, slot: Array) -> Array:
    """The cache [B,K,S,d] with row t of ``x`` [T,K,d] at (slot[t], :, pos[t]); a row with pos < 0 writes nothing.

    Floats are rounded to the cache's. The scales of an int8 cache are a cache with d = 1.
    """
    cache = cache.copy()
    live = pos >= 0
    cache[slot[live], :, pos[live]] = x[live].astype(cache.dtype)
    return cache


def _over_caches(
    op: str, q: TensorType, k: TensorType, v: TensorType, pos: TensorType, slot: TensorType, scale: float, window: int
) -> TensorType:
    rank(op, "q", q, 3)
    is_float(op, "q", q)
    rank(op, "k", k, 4)
    that(v == k, op, "v", f"{k} as k", v)
    t, h, d = q.shape
    _, kv, _, dk = k.shape
    that(dk == d and h % kv == 0, op, "k", f"heads of {d}, a number of heads dividing {h}", k)
    _rows_type(op, pos, slot, t)
    that(window >= 0, op, "window", "0 or a positive number", window)
    that(math.isfinite(scale), op, "scale", "a finite number", scale)
    return q


def _attention_type(
    q: TensorType, k: TensorType, v: TensorType, pos: TensorType, slot: TensorType, *, scale: float, window: int
) -> TensorType:
    is_float("attention", "k", k)
    return _over_caches("attention", q, k, v, pos, slot, scale, window)


@op(
    infer=_attention_type,
    # over a full cache, windows ignored; what a step really does follows its positions
    cost=lambda t, a: 4 * t[0].numel * t[1].shape[2],
)
def attention(q: Array, k: Array, v: Array, pos: Array, slot: Array, *, scale: float, window: int = 0) -> Array:
    """Causal grouped-query attention of ``q`` [T,H,d] over the caches ``k``, ``v`` [B,K,S,d] -> [T,H,d].

    Row t sees positions j <= pos[t] of its slot and, with a window, j > pos[t] - window. A row with pos < 0 gives 0.
    Query head h reads cache head h // (H/K).
    """
    out = np.zeros_like(q)
    t_rows, h, d = q.shape
    kv = k.shape[1]
    for t in range(t_rows):
        p = int(pos[t])
        if p < 0:
            continue
        first = max(0, p + 1 - window) if window else 0
        row = summable(q[t]).reshape(kv, h // kv, d)
        keys = k[slot[t], :, first : p + 1].astype(row.dtype)  # [K,n,d]
        values = v[slot[t], :, first : p + 1].astype(row.dtype)
        scores = row @ keys.swapaxes(1, 2) * row.dtype.type(scale)  # [K,H/K,n]
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[t] = (scores / scores.sum(axis=-1, keepdims=True) @ values).reshape(h, d)
    return out


def _attention_int8_type(
    q: TensorType,
    k: TensorType,
    k_scale: TensorType,
    v: TensorType,
    v_scale: TensorType,
    pos: TensorType,
    slot: TensorType,
    *,
    scale: float,
    window: int,
) -> TensorType:
    that(k.dtype == "i8", "attention_int8", "k", "i8", k)
    out = _over_caches("attention_int8", q, k, v, pos, slot, scale, window)
    scales = TensorType("f32", (*k.shape[:3], 1))
    for what, x in (("k_scale", k_scale), ("v_scale", v_scale)):
        that(x == scales, "attention_int8", what, f"{scales} for {k}", x)
    return out


@op(infer=_attention_int8_type, cost=lambda t, a: 4 * t[0].numel * t[1].shape[2])
def attention_int8(
    q: Array,
    k: Array,
    k_scale: Array,
    v: Array,
    v_scale: Array,
    pos: Array,
    slot: Array,
    *,
    scale: float,
    window: int = 0,
) -> Array:
    """``attention`` over caches of int8 rows [B,K,S,d], each of which has its own scale in [B,K,S,1]."""
    wide = summable(q).dtype
    with np.errstate(invalid="ignore", over="ignore"):  # whatever positions hold that no row sees
        keys, values = k * k_scale.astype(wide), v * v_scale.astype(wide)
    out: Array = attention.reference(q, keys, values, pos, slot, scale=scale, window=window)
    return out
