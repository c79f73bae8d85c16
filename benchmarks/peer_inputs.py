"""What each engine reads, made from one checkpoint: plans, GGUF files, CTranslate2 folders, llama2.c files.

Every writer takes the tensors by the canonical names of ``graphllm.frontends.checkpoint``.
"""

# pyright: basic

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphllm
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.open import open_checkpoint

CONTEXT = 1024  # positions, in every engine

GGUF_NAMES = {
    "att_norm": "attn_norm.weight",
    "wq": "attn_q.weight",
    "wk": "attn_k.weight",
    "wv": "attn_v.weight",
    "wo": "attn_output.weight",
    "bq": "attn_q.bias",
    "bk": "attn_k.bias",
    "bv": "attn_v.bias",
    "ffn_norm": "ffn_norm.weight",
    "w_gate": "ffn_gate.weight",
    "w_up": "ffn_up.weight",
    "w_down": "ffn_down.weight",
}
GGUF_TOP = {"tok_emb": "token_embd.weight", "norm": "output_norm.weight", "lm_head": "output.weight"}


class Unavailable(Exception):
    """A peer that cannot run here, or not this model; the message says why."""


def write_plan(checkpoint: Path, out: Path, kind: str) -> None:
    """``kind`` is a mode of quantization or a dtype."""
    quantize: Any = kind if kind.startswith("int8") else None
    graphllm.compile(checkpoint, out, target="cpu", quantize=quantize, context=CONTEXT)


def write_gguf(checkpoint: Path, out: Path, kind: str) -> None:
    """Matrices in ``kind`` (Q8_0, BF16, F32), vectors in F32, no tokenizer."""
    import gguf
    from gguf.quants import quantize

    source = open_checkpoint(checkpoint)
    c = source.config
    writer = gguf.GGUFWriter(out, "qwen2" if c.qkv_bias else "llama")
    writer.add_block_count(c.layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.dim)
    writer.add_feed_forward_length(c.ffn_dim)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_vocab_size(c.vocab)
    writer.add_tokenizer_model("no_vocab")

    matrix_type = gguf.GGMLQuantizationType[kind]
    for name, tensor in source.tensors.items():
        layer, _, part = name.rpartition(".")
        values = tensor.read()
        if part in ("wq", "wk") and not c.qkv_bias:  # llama.cpp turns neighbours in llama, halves in qwen2
            values = interleaved(values, c)
        if values.ndim == 1:
            packed, kept_as = values.astype(np.float32), gguf.GGMLQuantizationType.F32
        elif kind == "BF16" and tensor.dtype == "bf16":
            packed, kept_as = np.ascontiguousarray(values).view(np.uint8), matrix_type
        else:
            packed, kept_as = quantize(values.astype(np.float32, copy=False), matrix_type), matrix_type
        stored = f"blk.{layer[1:]}.{GGUF_NAMES[part]}" if layer else GGUF_TOP[part]
        writer.add_tensor(stored, packed, raw_dtype=kept_as)
    if c.rope_scaling.kind == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(c))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def interleaved(rows: NDArray[Any], config: ModelConfig) -> NDArray[Any]:
    """Rows of q or k whose RoPE pairs are (i, i + d/2) within a head, as pairs (2i, 2i + 1)."""
    halves = rows.reshape(-1, 2, config.head_dim // 2, rows.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def llama3_divisors(config: ModelConfig) -> NDArray[np.float32]:
    """What Llama 3.1's scaling divides each of the d/2 RoPE frequencies by, f32."""
    scaling = config.rope_scaling
    wavelength = 2 * math.pi * config.rope_theta ** (np.arange(0, config.head_dim, 2) / config.head_dim)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = np.clip((scaling.original_context / wavelength - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).astype(np.float32)


def write_ctranslate2(checkpoint: Path, out: Path, kind: str) -> None:
    """A folder of CTranslate2 with matrices in ``kind`` (int8: a scale for each row)."""
    from ctranslate2.specs import TransformerDecoderModelSpec, attention_spec, common_spec

    source = open_checkpoint(checkpoint)
    c = source.config
    llama3 = c.rope_scaling.kind == "llama3"
    spec: Any = TransformerDecoderModelSpec.from_config(
        c.layers,
        c.heads,
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=False,
        rotary_scaling_type=attention_spec.RotaryScalingType.Llama3 if llama3 else None,
        rotary_scaling_factor=c.rope_scaling.factor,
        rotary_base=c.rope_theta,
        num_heads_kv=c.kv_heads,
    )

    def tensor(name: str) -> NDArray[np.float32]:
        return source.tensors[name].read().astype(np.float32)

    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensor("tok_emb")
    decoder.projection.weight = decoder.embeddings.weight if c.tied else tensor("lm_head")
    decoder.layer_norm.gamma = tensor("norm")
    for i, layer in enumerate(decoder.layer):
        attention, ffn = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = tensor(f"l{i}.att_norm")
        attention.linear[0].weight = np.concatenate([tensor(f"l{i}.w{part}") for part in "qkv"])
        if c.qkv_bias:
            attention.linear[0].bias = np.concatenate([tensor(f"l{i}.b{part}") for part in "qkv"])
        attention.linear[1].weight = tensor(f"l{i}.wo")
        ffn.layer_norm.gamma = tensor(f"l{i}.ffn_norm")
        ffn.linear_0.weight = tensor(f"l{i}.w_gate")
        ffn.linear_0_noact.weight = tensor(f"l{i}.w_up")
        ffn.linear_1.weight = tensor(f"l{i}.w_down")
        if llama3:
            attention.rotary_low_freq_factor = np.float32(c.rope_scaling.low_freq_factor)
            attention.rotary_high_freq_factor = np.float32(c.rope_scaling.high_freq_factor)

    spec.register_vocabulary([f"t{i}" for i in range(c.vocab)])
    spec.config.layer_norm_epsilon = c.norm_eps
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = "t0", "t1", "t2"
    spec.validate()
    spec.optimize(kind)
    out.mkdir()
    spec.save(str(out))


def write_llama2c(checkpoint: Path, out: Path, kind: str) -> None:
    """A version 0 file of f32, and ``tokenizer.bin`` beside it, both in the folder ``out``.

    ``run`` knows one base and no scaling of RoPE, so that a Llama 3 model computes something else, no faster or slower.
    """
    assert kind == "f32"
    source = open_checkpoint(checkpoint)
    c = source.config
    if c.qkv_bias:
        raise Unavailable("run knows no biases")
    out.mkdir()
    with (out / "model.bin").open("wb") as file:
        vocab = c.vocab if c.tied else -c.vocab
        np.array([c.dim, c.ffn_dim, c.layers, c.heads, c.kv_heads, vocab, CONTEXT], np.int32).tofile(file)

        def write(name: str) -> None:
            values = source.tensors[name].read()
            if name.endswith(("wq", "wk")) and c.rope_pairing == "half":
                values = interleaved(values, c)
            values.astype(np.float32, copy=False).tofile(file)

        write("tok_emb")
        for part in ("att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w_gate", "w_down", "w_up"):
            for i in range(c.layers):
                write(f"l{i}.{part}")
        write("norm")
        np.zeros(CONTEXT * c.head_dim, np.float32).tofile(file)  # where RoPE's tables once were
        if not c.tied:
            write("lm_head")
    with (out / "tokenizer.bin").open("wb") as file:
        file.write(np.int32(16).tobytes())
        for i in range(c.vocab):
            word = f"t{i}".encode()
            file.write(np.float32(0).tobytes() + np.int32(len(word)).tobytes() + word)


WRITERS = {
    "graphllm": write_plan,
    "llama.cpp": write_gguf,
    "CTranslate2": write_ctranslate2,
    "llama2.c": write_llama2c,
}


def make_input(engine: str, kind: str, checkpoint: Path, out: Path) -> None:
    """Write what ``engine`` reads unless it is there; a half-written one never takes its name.

    Raises:
        Unavailable: a package is missing, or the engine does not know this model.
    """
    if out.exists():
        return
    part = out.with_name(f"{out.name}.part")
    discard(part)
    try:
        WRITERS[engine](checkpoint, part, kind)
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from None
    part.rename(out)


def discard(path: Path) -> None:
    """Remove a file or a folder, where there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bytes_a_token(checkpoint: Checkpoint, kind: str) -> float:
    """Bytes of weights that one token reads: every matrix once, but of an untied embedding only a row."""
    bits = {"int8": 8 + 16 / 64, "Q8_0": 8 + 16 / 32, "bf16": 16, "BF16": 16, "f32": 32, "F32": 32}[kind]
    names = [
        n for n, t in checkpoint.tensors.items() if len(t.shape) == 2 and (checkpoint.config.tied or n != "tok_emb")
    ]
    return sum(math.prod(checkpoint.tensors[n].shape) for n in names) * bits / 8
