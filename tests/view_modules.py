"""Modules to look at: any configuration traced from shapes alone, with hostile names where they can be put."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from graphllm.codegen.numpy.target import NUMPY
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.trace import Steps, trace
from graphllm.ir import Module, TensorType, Weight
from graphllm.passes.manager import run_passes
from graphllm.passes.pipeline import lowering, portable
from tests.model_zoo import BASE

HOSTILE = '</svg><script>alert("1")</script>&amp;\x1b[31m\u202e]]>--><!-- \\" }'
TINYLLAMA = replace(
    BASE, dim=2048, layers=22, heads=32, kv_heads=4, head_dim=64, ffn_dim=5632, vocab=32000, context=2048
)
REGISTERS = replace(NUMPY, name="registers", stepwise=False)  # inner values of kernels in no memory


def shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a model by canonical name."""
    d, f, q, k = c.dim, c.ffn_dim, c.heads * c.head_dim, c.kv_heads * c.head_dim
    out: dict[str, tuple[int, ...]] = {"tok_emb": (c.vocab, d), "norm": (d,)}
    out |= {} if c.tied else {"lm_head": (c.vocab, d)}
    for i in range(c.layers):
        layer: Mapping[str, tuple[int, ...]] = {
            "att_norm": (d,),
            "ffn_norm": (d,),
            "wq": (q, d),
            "wk": (k, d),
            "wv": (k, d),
            "wo": (d, q),
            "w_gate": (f, d),
            "w_up": (f, d),
            "w_down": (d, f),
            **({"bq": (q,), "bk": (k,), "bv": (k,)} if c.qkv_bias else {}),
            **({"bo": (d,)} if c.o_bias else {}),
            **({"b_gate": (f,), "b_up": (f,), "b_down": (d,)} if c.mlp_bias else {}),
            **({"q_norm": (c.head_dim,), "k_norm": (c.head_dim,)} if c.qk_norm else {}),
        }
        out |= {f"l{i}.{name}": shape for name, shape in layer.items()}
    return out


@cache
def traced(config: ModelConfig) -> Module:
    """After the portable passes: no kernels yet."""
    weights = {n: Weight(n, TensorType("f32", s), None, f"{n} {HOSTILE}") for n, s in shapes(config).items()}
    module = trace(config, weights, 0, Steps(context=48, prefill=(8,), score=4))
    return run_passes(module, portable())[0]


@cache
def lowered(config: ModelConfig, *, stepwise: bool = True) -> Module:
    """Kernels, one order, memory planned."""
    return run_passes(traced(config), lowering(NUMPY if stepwise else REGISTERS))[0]
