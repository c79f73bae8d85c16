"""The same model in PyTorch, for the same run: plain modules in bf16 with a static cache, eager and compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any


class TorchDecoder:
    """A decoder of a model's sizes, with random weights, one sequence, greedy.

    Raises:
        ImportError: no PyTorch.
        RuntimeError: it has no such device, or too little memory.
    """

    def __init__(self, config: Any, *, context: int, device: str = "cuda") -> None:
        import torch

        self.torch, self.config, self.device = torch, config, device
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch has no CUDA")
        d, h, k, hd, ff = config.dim, config.heads, config.kv_heads, config.head_dim, config.ffn_dim
        options: dict[str, Any] = {"device": device, "dtype": torch.bfloat16}

        def matrix(rows: int, columns: int) -> Any:
            return torch.randn(rows, columns, **options) * 0.02

        self.layers = [
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
        self.table, self.last = matrix(config.vocab, d), torch.ones(d, **options)
        self.head = self.table if config.tied else matrix(config.vocab, d)
        angle = torch.arange(context, device=device)[:, None] * (
            config.rope_theta ** (-torch.arange(0, hd, 2, device=device) / hd)
        )
        self.cosines, self.sines = angle.cos().to(torch.bfloat16), angle.sin().to(torch.bfloat16)
        self.seen = torch.arange(context, device=device)

    def step(self, tokens: Any, pos: Any) -> Any:
        """The likeliest token after the last of ``tokens``."""
        return self.logits(tokens, pos).argmax(-1)

    def logits(self, tokens: Any, pos: Any) -> Any:
        """Of the last of ``tokens`` [T] at positions ``pos`` [T], which are one token or a prompt from 0 on: [1, V]."""
        functional = self.torch.nn.functional
        c, rows = self.config, tokens.shape[0]
        d, h, k, hd = c.dim, c.heads, c.kv_heads, c.head_dim

        def turned(x: Any) -> Any:  # [T, heads, hd]
            a, b = x[..., 0::2], x[..., 1::2]
            cos, sin = self.cosines[pos][:, None], self.sines[pos][:, None]
            return self.torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

        x = self.table[tokens]
        for w in self.layers:
            qkv = functional.linear(functional.rms_norm(x, (d,), w["n1"]), w["qkv"]).view(rows, h + 2 * k, hd)
            q, key = turned(qkv[:, :h]), turned(qkv[:, h : h + k])
            # [1, heads, T, hd]
            q, key, value = (t.transpose(0, 1)[None] for t in (q, key, qkv[:, h + k :]))
            w["keys"].index_copy_(2, pos, key)
            w["values"].index_copy_(2, pos, value)
            if rows == 1:
                mask = (self.seen <= pos)[None, None, None]
                out = functional.scaled_dot_product_attention(
                    q, w["keys"], w["values"], attn_mask=mask, enable_gqa=h != k
                )
            else:
                out = functional.scaled_dot_product_attention(q, key, value, is_causal=True, enable_gqa=h != k)
            x = x + functional.linear(out[0].transpose(0, 1).reshape(rows, h * hd), w["o"])
            gate, up = functional.linear(functional.rms_norm(x, (d,), w["n2"]), w["up"]).chunk(2, -1)
            x = x + functional.linear(functional.silu(gate) * up, w["down"])
        return functional.linear(functional.rms_norm(x[-1:], (d,), self.last), self.head)

    def decode(self, *, compiled: bool, steps: int = 64) -> float:
        """Tokens a second, one at a time."""
        torch = self.torch
        run = torch.compile(self.step, mode="reduce-overhead") if compiled else self.step
        times: list[float] = []
        with torch.inference_mode():
            token = torch.zeros(1, dtype=torch.long, device=self.device)
            for i in range(steps + 8):
                pos = torch.tensor([i], device=self.device)
                times.append(self._seconds(lambda t=token, p=pos: run(t, p)))
        return 1 / median(times[8:])

    def prefill(self, tokens: int, *, compiled: bool, rounds: int = 5) -> float:
        """Tokens a second of a prompt, the classifier over its last row."""
        torch = self.torch
        run = torch.compile(self.step) if compiled else self.step
        with torch.inference_mode():
            prompt = torch.randint(self.config.vocab, (tokens,), device=self.device)
            pos = torch.arange(tokens, device=self.device)
            times = [self._seconds(lambda: run(prompt, pos)) for _ in range(rounds + 2)]
        return tokens / median(times[2:])

    def _seconds(self, run: Callable[[], Any]) -> float:
        wait = self.torch.cuda.synchronize if self.device == "cuda" else lambda: None
        wait()
        begun = time.perf_counter()
        run().clone()
        wait()
        return time.perf_counter() - begun
