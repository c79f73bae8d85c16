"""Every block format of GGUF against the format's own arithmetic."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.frontends import gguf_blocks
from graphllm.frontends.open import open_checkpoint
from tests.checkpoint_writers import random_tensors
from tests.gguf_models import CONFIG, gguf_names, metadata
from tests.gguf_writer import write_gguf


def reference(kind: int, block: bytes) -> list[float]:
    """One block by the plain definition, an element at a time, in float64 from exact parts."""

    def half(at: int) -> float:
        return float(np.frombuffer(block[at : at + 2], np.float16)[0])

    if kind in (gguf_blocks.Q4_0, gguf_blocks.Q4_1, gguf_blocks.Q5_0, gguf_blocks.Q5_1):
        five, one = kind in (6, 7), kind in (3, 7)
        at = 4 if one else 2
        high = int.from_bytes(block[at : at + 4], "little") if five else 0
        at += 4 if five else 0
        q = [block[at + i] & 15 for i in range(16)] + [block[at + i] >> 4 for i in range(16)]
        q = [v | (high >> i & 1) << 4 for i, v in enumerate(q)]
        return [half(0) * v + half(2) if one else half(0) * (v - (16 if five else 8)) for v in q]
    if kind == gguf_blocks.Q6_K:
        out = []
        for i in range(256):
            part, j = divmod(i, 128)
            row, k = divmod(j, 32)
            low = block[part * 64 + (row % 2) * 32 + k] >> (4 if row >= 2 else 0) & 15
            high = block[128 + part * 32 + k] >> 2 * row & 3
            scale = struct.unpack("b", block[192 + i // 16 : 193 + i // 16])[0]
            out.append(half(208) * scale * ((low | high << 4) - 32))
        return out
    out, packed = [], block[4:16]
    for g in range(8):
        if g < 4:
            scale, minimum = packed[g] & 63, packed[g + 4] & 63
        else:
            scale = packed[g + 4] & 15 | packed[g - 4] >> 6 << 4
            minimum = packed[g + 4] >> 4 | packed[g] >> 6 << 4
        for k in range(32):
            at = (48 if kind == gguf_blocks.Q5_K else 16) + g // 2 * 32 + k
            q = block[at] >> 4 * (g % 2) & 15
            if kind == gguf_blocks.Q5_K:
                q |= (block[16 + k] >> g & 1) << 4
            out.append(half(0) * scale * q - half(2) * minimum)
    return out


@pytest.mark.parametrize("kind", gguf_blocks.MULTIPLIED)
def test_blocks_are_multiplied_out_exactly(kind: int) -> None:
    rng = np.random.default_rng(kind)
    elements, size = gguf_blocks.block_sizes(kind)
    raw = rng.integers(0, 256, (3, 4, size), dtype=np.uint8)
    for at in {2: (0,), 3: (0, 2), 6: (0,), 7: (0, 2), 12: (0, 2), 13: (0, 2), 14: (208,)}[kind]:
        raw[:, :, at : at + 2] = rng.standard_normal((3, 4, 1)).astype(np.float16).view(np.uint8).reshape(3, 4, 2)
    ours = gguf_blocks.multiplied_out(kind, raw.reshape(3, -1), 4 * elements)
    exact = [[v for block in row for v in reference(kind, block.tobytes())] for row in raw]
    # products of small integers and f16 are exact in f32 but where a scale and a minimum are added
    np.testing.assert_allclose(ours, exact, rtol=3e-7, atol=1e-6)
    if kind in (2, 6, 14):
        np.testing.assert_array_equal(ours, np.array(exact, np.float32))
    gguf = pytest.importorskip("gguf", reason="the gguf package is not there to compare with")
    theirs = gguf.quants.dequantize(raw.reshape(3, -1), gguf.GGMLQuantizationType(kind))
    np.testing.assert_array_equal(ours, theirs)


def test_other_blocks_become_f32_and_it_is_said(tmp_path: Path) -> None:
    config = replace(CONFIG, dim=256, head_dim=64, ffn_dim=256)
    tensors = dict(random_tensors(config, np.random.default_rng(0)))
    kinds = gguf_blocks.MULTIPLIED
    rng = np.random.default_rng(1)
    stored: dict[str, Any] = dict(tensors)
    for i, (name, tensor) in enumerate(n for n in tensors.items() if n[1].ndim == 2):
        kind = kinds[i % len(kinds)]
        size = gguf_blocks.row_bytes(kind, tensor.shape[1])
        assert size
        raw = rng.integers(0, 60, (tensor.shape[0], size), dtype=np.uint8)  # no NaN among the scales
        stored[name] = (kind, tensor.shape, raw.tobytes())
        tensors[name] = gguf_blocks.multiplied_out(kind, raw, tensor.shape[1])
    write_gguf(tmp_path / "m", metadata(config), gguf_names(stored))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert any("multiplied out to f32, exactly: " in n and "in Q4_K" in n and "in Q6_K" in n for n in checkpoint.notes)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), tensor)
        np.testing.assert_array_equal(checkpoint.tensors[name].rows(3, 9), tensor[3:9])
