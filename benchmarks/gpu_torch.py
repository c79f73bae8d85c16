"""The same decode step in PyTorch, for the same run: plain modules with a static cache, eager and compiled."""

from __future__ import annotations

import time
from statistics import median
from typing import Any


def torch_decode(config: Any, *, compiled: bool, steps: int = 64, context: int = 512) -> float:
    """Tokens a second of a decoder of these sizes in bf16, batch 1, greedy.

    Raises:
        ImportError: no PyTorch.
        RuntimeError: it has no CUDA, or too little memory.
    """
    import torch
    from torch.nn import functional as F

    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch has no CUDA")
    d, h, k, hd, ff = config.dim, config.heads, config.kv_heads, config.head_dim, config.ffn_dim
    options: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}

    def matrix(rows: int, columns: int) -> Any:
        return torch.randn(rows, columns, **options) * 0.02

    layers = [
        {
            "qkv": matrix((h + 2 * k) * hd, d),
            "o": matrix(d, h * hd),
            "up": matrix(2 * ff, d),
            "down": matrix(d, ff),
            "n1": torch.ones(d, **options),
            "n2": torch.ones(d, **options),
            "keys": torch.zeros(1, k, context, hd, **options),
            "values": torch.zeros(1, k, context, hd, **options),
        }
        for _ in range(config.layers)
    ]
    table, last = matrix(config.vocab, d), torch.ones(d, **options)
    head = table if config.tied else matrix(config.vocab, d)
    angle = torch.arange(context, device="cuda")[:, None] * (
        config.rope_theta ** (-torch.arange(0, hd, 2, device="cuda") / hd)
    )
    cosines, sines = angle.cos().to(torch.bfloat16), angle.sin().to(torch.bfloat16)
    seen = torch.arange(context, device="cuda")

    def turned(x: Any, pos: Any) -> Any:
        a, b = x[..., 0::2], x[..., 1::2]
        c, s = cosines[pos][:, None], sines[pos][:, None]
        return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)

    def step(token: Any, pos: Any) -> Any:
        x = table[token]
        mask = (seen <= pos)[None, None, None]
        for w in layers:
            qkv = F.linear(F.rms_norm(x, (d,), w["n1"]), w["qkv"]).view(1, h + 2 * k, hd)
            q, key = turned(qkv[:, :h], pos), turned(qkv[:, h : h + k], pos)
            w["keys"].index_copy_(2, pos, key[:, :, None])
            w["values"].index_copy_(2, pos, qkv[:, h + k :, None])
            out = F.scaled_dot_product_attention(
                q[:, :, None], w["keys"], w["values"], attn_mask=mask, enable_gqa=h != k
            )
            x = x + F.linear(out.reshape(1, h * hd), w["o"])
            gate, up = F.linear(F.rms_norm(x, (d,), w["n2"]), w["up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, w["down"])
        return F.linear(F.rms_norm(x, (d,), last), head).argmax(-1)

    run = torch.compile(step, mode="reduce-overhead") if compiled else step
    times: list[float] = []
    with torch.inference_mode():
        token = torch.zeros(1, dtype=torch.long, device="cuda")
        for i in range(steps + 8):
            pos = torch.tensor([i], device="cuda")
            torch.cuda.synchronize()
            begun = time.perf_counter()
            token = run(token, pos).clone()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - begun)
    return 1 / median(times[8:])
