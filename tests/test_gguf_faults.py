"""GGUF files that lie, are damaged or cut end in one line."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.errors import GraphLLMError
from graphllm.frontends.open import open_checkpoint
from tests.checkpoint_writers import random_tensors
from tests.gguf_models import CONFIG, SAID, TENSORS, TOKENIZER, gguf_names, metadata
from tests.gguf_writer import ARRAY, STRING, U32, gguf_bytes, q8_0, text, write_gguf


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SAID.items() if key != name}


HEAD = b"GGUF" + struct.pack("<I", 3)
KEY = text("general.architecture")
WRONG: dict[str, tuple[bytes, str]] = {
    "version 1": (gguf_bytes(SAID, TENSORS, 1), "GGUF version 1; expected 2 or 3"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian files are not supported"),
    "no version": (b"GGUF", "truncated GGUF header; expected 4 bytes at 4"),
    "many tensors": (HEAD + struct.pack("<QQ", 2**60, 0), "expected at most 100000"),
    "many keys": (HEAD + struct.pack("<QQ", 0, 2**60), "expected at most 100000 and 65536"),
    "huge key": (HEAD + struct.pack("<QQQ", 0, 1, 2**62), "a key of 4611686018427387904 bytes"),
    "key to the end": (HEAD + struct.pack("<QQQ", 0, 1, 60000), "truncated GGUF header"),
    "key not text": (HEAD + struct.pack("<QQ", 0, 1) + text(b"\xff\xfe"), "is not UTF-8"),
    "value type": (HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<I", 77), "value type 77"),
    "huge text": (HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IQ", STRING, 2**40), "the text of general"),
    "huge array": (HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", ARRAY, U32, 2**61), "truncated GGUF"),
    "huge texts": (
        HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", ARRAY, STRING, 2**61),
        "claims .* texts",
    ),
    "nested": (
        HEAD + struct.pack("<QQ", 0, 1) + KEY + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(99),
        "array of type 9",
    ),
    "key twice": (
        HEAD + struct.pack("<QQ", 0, 2) + (KEY + struct.pack("<I", STRING) + text("llama")) * 2,
        "is there twice",
    ),
    "a key of two lines": (
        HEAD + struct.pack("<QQ", 0, 1) + text("a\nb") + struct.pack("<I", 1128),
        r"a key is 'a\\nb'; expected printable characters",
    ),
    "alignment": (gguf_bytes(SAID | {"general.alignment": 9}, {}), "general.alignment is 9"),
    "alignment 0": (
        HEAD + struct.pack("<QQ", 0, 1) + text("general.alignment") + struct.pack("<II", U32, 0),
        "general.alignment is 0",
    ),
    "no architecture": (gguf_bytes(without("general.architecture"), TENSORS), "general.architecture absent"),
    "other architecture": (
        gguf_bytes(SAID | {"general.architecture": "mamba"}, TENSORS),
        "architecture 'mamba' is not",
    ),
    "architecture is a number": (gguf_bytes(SAID | {"general.architecture": 5}, TENSORS), "general.architecture is 5"),
    "no sizes": (gguf_bytes(without("llama.embedding_length"), TENSORS), "embedding_length absent"),
    "no layers": (gguf_bytes(SAID | {"llama.block_count": 0}, TENSORS), "block_count is 0"),
    "many layers": (gguf_bytes(SAID | {"llama.block_count": 2**31}, TENSORS), "block_count is 2147483648"),
    "more layers": (gguf_bytes(SAID | {"llama.block_count": 3}, TENSORS), "blk.2.attn_norm.weight is missing"),
    "heads": (gguf_bytes(SAID | {"llama.attention.head_count": 3}, TENSORS), "3 heads with 2 kv heads"),
    "heads differ": (gguf_bytes(SAID | {"llama.attention.head_count": [4, 2]}, TENSORS), "values that differ"),
    "odd head": (gguf_bytes(SAID | {"llama.attention.key_length": 7}, TENSORS), "head size is 7"),
    "part of a head": (gguf_bytes(SAID | {"llama.rope.dimension_count": 4}, TENSORS), "RoPE over a part of each head"),
    "value heads": (gguf_bytes(SAID | {"llama.attention.value_length": 4}, TENSORS), "keys and values differ"),
    "dim": (gguf_bytes(SAID | {"llama.embedding_length": 64}, TENSORS), "expected .* by the file's own sizes"),
    "eps": (gguf_bytes(SAID | {"llama.attention.layer_norm_rms_epsilon": float("nan")}, TENSORS), "epsilon is nan"),
    "theta": (gguf_bytes(SAID | {"llama.rope.freq_base": -1.0}, TENSORS), "freq_base is -1"),
    "scaling": (gguf_bytes(SAID | {"llama.rope.scaling.type": "longrope"}, TENSORS), "'longrope' is not supported"),
    "split": (gguf_bytes(SAID | {"split.count": 3}, TENSORS), "one of 3 parts"),
    "no tensors": (gguf_bytes(SAID, {}), "a GGUF file without tensors"),
    "missing": (gguf_bytes(SAID, {n: t for n, t in TENSORS.items() if "ffn_up" not in n}), "ffn_up.weight is missing"),
    "no embedding": (gguf_bytes(SAID, {n: t for n, t in TENSORS.items() if "token" not in n}), "token_embd.weight is"),
    "truncated": (gguf_bytes(SAID, TENSORS)[:-1], "expected them inside the file"),
    "type": (gguf_bytes(SAID, TENSORS | {"output.weight": (99, (40, 32), b"")}), "has type 99; expected one of F32"),
    "Q2_K": (gguf_bytes(SAID, TENSORS | {"output.weight": (10, (1, 256), bytes(84))}), "shape|has type Q2_K"),
    "integers": (gguf_bytes(SAID, TENSORS | {"output.weight": (26, (40, 32), bytes(5120))}), "has type I32; expected"),
    "broken rows": (gguf_bytes(SAID, TENSORS | {"x": (8, (4, 33), b"")}), "rows of 33; expected whole blocks of Q8_0"),
    "huge tensor": (gguf_bytes(SAID, TENSORS | {"x": (0, (2**39, 2**39), b"")}), "expected them inside the file"),
    "empty tensor": (gguf_bytes(SAID, TENSORS | {"x": (0, (0, 4), b"")}), "has sizes"),
    "rank": (gguf_bytes(SAID, TENSORS | {"x": (0, (1,) * 5, bytes(4))}), "has 5 dimensions; expected 1 to 4"),
    "norm in blocks": (gguf_bytes(SAID, TENSORS | {"output_norm.weight": (8, (32,), bytes(34))}), "has type Q8_0"),
    "tokens": (gguf_bytes(SAID | TOKENIZER | {"tokenizer.ggml.tokens": 5}, TENSORS), "tokens is absent or empty"),
    "bos": (
        gguf_bytes(SAID | {"tokenizer.ggml.bos_token_id": -1.0}, TENSORS),
        "bos_token_id is -1.0; expected a token",
    ),
    "template": (gguf_bytes(SAID | TOKENIZER | {"tokenizer.chat_template": 5}, TENSORS), "chat template"),
    "template bomb": (
        gguf_bytes(SAID | TOKENIZER | {"tokenizer.chat_template": "x" * 2_000_000}, TENSORS),
        "at most 1000000",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_are_told(tmp_path: Path, kind: str) -> None:
    content, message = WRONG[kind]
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(GraphLLMError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_checkpoint(tmp_path / "m")


def test_tensors_over_one_another(tmp_path: Path) -> None:
    whole = gguf_bytes(SAID, TENSORS)
    at = whole.index(text("blk.0.attn_norm.weight")) + len(text("blk.0.attn_norm.weight")) + 4 + 8 + 4
    for offset, message in ((1, "expected a multiple of 32"), (0, "over"), (2**50, "inside the file")):
        data = bytearray(whole)
        data[at : at + 8] = struct.pack("<Q", offset)
        (tmp_path / "m").write_bytes(data)
        with pytest.raises(GraphLLMError, match=message):
            open_checkpoint(tmp_path / "m")


def test_scales_that_are_no_numbers(tmp_path: Path) -> None:
    raw = bytearray(q8_0(TENSORS["output.weight"])[2])
    raw[0:2] = np.float16(np.inf).tobytes()
    write_gguf(tmp_path / "m", SAID, TENSORS | {"output.weight": (8, (40, 32), bytes(raw))})
    with pytest.raises(GraphLLMError, match=r"scales of output.weight hold NaN or infinity"):
        graphllm.load(tmp_path / "m")


def test_cut_and_flipped_files_end_in_one_line(tmp_path: Path) -> None:
    config = replace(CONFIG, vocab=264)
    said = metadata(config, **TOKENIZER)
    whole = gguf_bytes(said, gguf_names(random_tensors(config, np.random.default_rng(0))))
    head = whole.index(text("token_embd.weight")) + 1000
    rng = np.random.default_rng(0)
    path = tmp_path / "m"
    for length in [*range(60), *rng.integers(60, head, 60)]:
        path.write_bytes(whole[:length])
        with pytest.raises(GraphLLMError, match=r"^[^\n]+$"):
            open_checkpoint(path)
    for _ in range(150):
        data = bytearray(whole)
        data[rng.integers(0, head)] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        with suppress(GraphLLMError):
            open_checkpoint(path)
