"""Which sizes a model may have, and the tensors that follow from them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig

# Far above any published model, and low enough that a hostile header cannot make us build a huge table of names.
MAX_LAYERS = 4096
MAX_SIZE = 2**31 - 1  # of any one dimension
MAX_EXPERTS = 1024


def check_sizes(config: ModelConfig, where: str) -> None:
    """CheckpointError unless the sizes are positive, bounded and fit together. Messages use the alphabet of shapes."""
    named = {
        "dim (hidden size)": config.dim,
        "layers": config.layers,
        "heads": config.heads,
        "kv heads": config.kv_heads,
        "head size": config.head_dim,
        "ffn size (hidden_dim, intermediate size)": config.ffn_dim,
        "vocabulary": config.vocab,
        "context": config.context,
    }
    for name, value in named.items():
        most = MAX_LAYERS if name == "layers" else MAX_SIZE
        if not 1 <= value <= most:
            raise CheckpointError(f"{where}: {name} is {value}; expected 1 to {most}")
    if config.heads % config.kv_heads:
        raise CheckpointError(
            f"{where}: {config.heads} heads with {config.kv_heads} kv heads; expected kv heads that divide heads"
        )
    if config.experts:
        if not 1 < config.experts <= MAX_EXPERTS or config.experts * max(config.ffn_dim, config.dim) > MAX_SIZE:
            raise CheckpointError(f"{where}: {config.experts} experts; expected 2 to {MAX_EXPERTS}")
        if not 1 <= config.experts_used <= config.experts:
            raise CheckpointError(
                f"{where}: {config.experts_used} experts used by a token; expected 1 to {config.experts}"
            )
    if config.head_dim % 2:
        raise CheckpointError(f"{where}: head size is {config.head_dim}; expected an even one (RoPE turns pairs)")


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name to shape of every tensor of a model, ``lm_head`` only when it is not tied."""
    d, ffn = config.dim, config.ffn_dim
    q, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "att_norm": (d,),
        "wq": (q, d),
        "wk": (kv, d),
        "wv": (kv, d),
        "wo": (d, q),
        "ffn_norm": (d,),
    }
    if config.experts:  # experts one below the other
        e = config.experts
        layer |= {"router": (e, d), "x_gate": (e * ffn, d), "x_up": (e * ffn, d), "x_down": (e * d, ffn)}
    else:
        layer |= {"w_gate": (ffn, d), "w_up": (ffn, d), "w_down": (d, ffn)}
    if config.qkv_bias:
        layer |= {"bq": (q,), "bk": (kv,), "bv": (kv,)}
    if config.o_bias:
        layer |= {"bo": (d,)}
    if config.mlp_bias:
        layer |= {"b_gate": (ffn,), "b_up": (ffn,), "b_down": (d,)}
    if config.qk_norm:
        layer |= {"q_norm": (config.head_dim,), "k_norm": (config.head_dim,)}
    shapes: dict[str, tuple[int, ...]] = {"tok_emb": (config.vocab, d), "norm": (d,)}
    if not config.tied:
        shapes["lm_head"] = (config.vocab, d)
    return shapes | {f"l{i}.{name}": shape for i in range(config.layers) for name, shape in layer.items()}


def scale_shape(shape: tuple[int, ...], group: int) -> tuple[int, ...]:
    """Shape of a matrix's scales: by rows where groups lie along rows, else flat over the row-major matrix."""
    rows, columns = shape
    return (rows, columns // group) if columns % group == 0 else (prod(shape) // group,)


def without_foreign_ids(config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config without special ids that its vocabulary does not have, and a note for each kind that lost some.

    Published configs hold such ids (a pad of -1, the ids of a larger model); none can ever be sampled.
    """
    notes: list[str] = []
    inside = tuple(token for token in config.eos_ids if 0 <= token < config.vocab)
    if inside != config.eos_ids:
        foreign = sorted(set(config.eos_ids) - set(inside))
        notes.append(f"eos ids {foreign} are outside the vocabulary of {config.vocab} and are ignored")
    bos = config.bos_id
    if bos is not None and not 0 <= bos < config.vocab:
        notes.append(f"bos id {bos} is outside the vocabulary of {config.vocab} and is ignored")
        bos = None
    return replace(config, eos_ids=inside, bos_id=bos), tuple(notes)
