"""The Llama that is trained: the architecture of llama2.c, in plain PyTorch.

Pre-norm decoder: RMSNorm, rotary positions on interleaved pairs, grouped-query attention, SwiGLU, and one matrix that
is both embedding and classifier. Parameter names are Meta's, so that a state dict reads like any other Llama's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-5
ROPE_THETA = 10000.0


@dataclass(frozen=True)
class Shape:
    """What the header of llama2.c's v0 format says of a model."""

    dim: int = 128
    hidden: int = 384
    layers: int = 6
    heads: int = 8
    kv_heads: int = 4
    vocab: int = 1024
    context: int = 512

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) * weight``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, NORM_EPS)


class Attention(nn.Module):
    """Causal attention in which ``heads / kv_heads`` neighbouring query heads share one head of K and V."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_dim = shape.kv_heads * shape.head_dim
        self.wq = nn.Linear(shape.dim, shape.dim, bias=False)
        self.wk = nn.Linear(shape.dim, kv_dim, bias=False)
        self.wv = nn.Linear(shape.dim, kv_dim, bias=False)
        self.wo = nn.Linear(shape.dim, shape.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, T, D] and rotations [T, head_dim / 2] → [B, T, D]."""
        b, t, _ = x.shape
        s = self.shape
        q = rotate(self.wq(x).view(b, t, s.heads, s.head_dim), cos, sin).transpose(1, 2)
        k = rotate(self.wk(x).view(b, t, s.kv_heads, s.head_dim), cos, sin).transpose(1, 2)
        v = self.wv(x).view(b, t, s.kv_heads, s.head_dim).transpose(1, 2)
        group = s.heads // s.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.wo(y.transpose(1, 2).reshape(b, t, s.dim))


class FeedForward(nn.Module):
    """``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.w1 = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.w2 = nn.Linear(shape.hidden, shape.dim, bias=False)
        self.w3 = nn.Linear(shape.dim, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    """One layer: attention and feed-forward, each on a normed copy added back."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(shape.dim)
        self.attention = Attention(shape)
        self.ffn_norm = RMSNorm(shape.dim)
        self.feed_forward = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.ffn_norm(x))


class Llama(nn.Module):
    """Token ids [B, T] to logits [B, T, V]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.tok_embeddings = nn.Embedding(shape.vocab, shape.dim)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.dim)
        cos, sin = rotations(shape.context, shape.head_dim)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Normal(0, 0.02), and less for what is added to the residual, which sums 2 * layers of them."""
        for name, p in self.named_parameters():
            if p.dim() == 2:
                added = name.endswith(("wo.weight", "w2.weight"))
                nn.init.normal_(p, std=0.02 * ((2 * self.shape.layers) ** -0.5 if added else 1.0))

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.shape[1]
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        return F.linear(self.norm(x), self.tok_embeddings.weight)


def rotations(positions: int, head_dim: int) -> tuple[Tensor, Tensor]:
    """cos and sin f32 [positions, head_dim / 2] of ``position * theta**(-2i / head_dim)`` (RoFormer, 2021)."""
    turns = ROPE_THETA ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), turns)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2i, 2i + 1) of x [B, T, heads, head_dim] by the angle of their position."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
