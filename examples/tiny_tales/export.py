"""Writes a trained model as llama2.c reads it: the flat file of version 0, and its ``tokenizer.bin``.

The layout is that of ``legacy_export`` and ``tokenizer.py`` in github.com/karpathy/llama2.c (2023).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from .model import Shape, rotations


def write_v0(path: Path, weights: dict[str, Tensor], shape: Shape) -> None:
    """Seven int32, then every matrix in f32, a kind at a time over all layers. A positive vocabulary says "tied"."""

    def layers(name: str) -> list[Tensor]:
        return [weights[f"layers.{i}.{name}.weight"] for i in range(shape.layers)]

    cos, sin = rotations(shape.context, shape.head_dim)
    parts = [
        weights["tok_embeddings.weight"],
        *layers("attention_norm"),
        *(w for name in ("wq", "wk", "wv", "wo") for w in layers(f"attention.{name}")),
        *layers("ffn_norm"),
        *(w for name in ("w1", "w2", "w3") for w in layers(f"feed_forward.{name}")),
        weights["norm.weight"],
        cos,
        sin,
    ]
    header = (shape.dim, shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.vocab, shape.context)
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<7i", *header))
            for part in parts:
                file.write(part.detach().cpu().numpy().astype(np.float32).tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_tokenizer_bin(path: Path, vocabulary: SentencePieceProcessor) -> None:
    """The longest piece, then score, length and bytes of every piece; spaces are spaces and BOS and EOS lines."""
    pieces: list[tuple[float, bytes]] = []
    for i in range(vocabulary.get_piece_size()):
        text = vocabulary.id_to_piece(i)
        if i in (vocabulary.bos_id(), vocabulary.eos_id()):
            text = "\n<s>\n" if i == vocabulary.bos_id() else "\n</s>\n"
        pieces.append((vocabulary.get_score(i), text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()))
    with path.open("wb") as file:
        file.write(struct.pack("<i", max(len(text) for _, text in pieces)))
        for score, text in pieces:
            file.write(struct.pack("<fi", score, len(text)) + text)
