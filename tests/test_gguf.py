"""GGUF files: the public goldens, every block format against the format's own arithmetic, and files that lie."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm
from graphllm.errors import GraphLLMError
from graphllm.frontends import gguf_blocks
from graphllm.frontends.config import ModelConfig, RopeScaling
from graphllm.frontends.gguf import LAYER_NAMES, NAMES
from graphllm.frontends.open import open_checkpoint
from tests.checkpoint_writers import random_tensors, write_huggingface
from tests.gguf_writer import ARRAY, STRING, U32, gguf_bytes, q8_0, text, write_gguf
from tests.shared_data import shared

CONFIG = ModelConfig("llama", 32, 2, 4, 2, 8, 64, 40, 64, 1e-5, 1e4, "interleaved", bos_id=1, eos_ids=(2,), tied=False)
VOCABULARY = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "a", "b", "▁a", "ab"]
TOKENIZER = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": VOCABULARY,
    "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(5)],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 5],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def metadata(config: ModelConfig, **more: Any) -> dict[str, Any]:
    a = {"qwen3_moe": "qwen3moe"}.get(config.family, config.family)
    said = {
        "general.architecture": a,
        f"{a}.context_length": config.context,
        f"{a}.embedding_length": config.dim,
        f"{a}.block_count": config.layers,
        f"{a}.feed_forward_length": config.ffn_dim,
        f"{a}.attention.head_count": config.heads,
        f"{a}.attention.head_count_kv": config.kv_heads,
        f"{a}.attention.key_length": config.head_dim,
        f"{a}.attention.layer_norm_rms_epsilon": config.norm_eps,
        f"{a}.rope.freq_base": config.rope_theta,
        "tokenizer.ggml.model": "no_vocab",
    }
    if config.bos_id is not None:
        said["tokenizer.ggml.bos_token_id"] = config.bos_id
    if config.eos_ids:
        said["tokenizer.ggml.eos_token_id"] = config.eos_ids[0]
    return said | more


def gguf_names(tensors: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        out[f"blk.{layer[1:]}.{LAYER_NAMES[part]}" if layer else NAMES[name]] = tensor
    return out


MODELS = {
    "llama": CONFIG,
    "tied": replace(CONFIG, tied=True),
    "wide heads": replace(CONFIG, head_dim=12),
    "qwen2": replace(CONFIG, family="qwen2", qkv_bias=True, rope_pairing="half", rope_theta=1e6, bos_id=None),
    "qwen3": replace(CONFIG, family="qwen3", qk_norm=True, head_dim=16, rope_pairing="half"),
    "all biases": replace(CONFIG, qkv_bias=True, o_bias=True, mlp_bias=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_float_models(tmp_path: Path, name: str) -> None:
    config = MODELS[name]
    tensors = random_tensors(config, np.random.default_rng(0))
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        stored = {n: t if t.ndim == 1 else t.astype(dtype) for n, t in tensors.items()}
        write_gguf(tmp_path / "m", metadata(config), gguf_names(stored))
        checkpoint = open_checkpoint(tmp_path / "m")
        assert (checkpoint.format, checkpoint.group, checkpoint.tokenizer) == ("gguf", 0, None)
        rounded = replace(config, norm_eps=checkpoint.config.norm_eps)
        assert checkpoint.config == rounded
        assert abs(config.norm_eps - rounded.norm_eps) < 1e-12
        assert set(checkpoint.tensors) == set(tensors)
        for n, tensor in stored.items():
            np.testing.assert_array_equal(checkpoint.tensors[n].read(), tensor, n)
            np.testing.assert_array_equal(checkpoint.tensors[n].rows(1, 3), tensor[1:3], n)


def test_q8_0_stays_int8_groups_of_32(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, np.random.default_rng(0))
    stored = {n: q8_0(t) if t.ndim == 2 else t for n, t in tensors.items()}
    write_gguf(tmp_path / "m", metadata(CONFIG), gguf_names(stored))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.group == 32
    for name, tensor in tensors.items():
        source = checkpoint.tensors[name]
        if tensor.ndim == 1:
            np.testing.assert_array_equal(source.read(), tensor)
            continue
        raw = np.frombuffer(stored[name][2], np.uint8).reshape(-1, 34)
        scales = checkpoint.tensors[f"{name}.scale"]
        assert (source.dtype, scales.dtype) == ("i8", "f16")
        np.testing.assert_array_equal(source.read().reshape(-1, 32), raw[:, 2:].copy().view(np.int8))
        np.testing.assert_array_equal(scales.read().reshape(-1, 1), raw[:, :2].copy().view(np.float16))
        np.testing.assert_array_equal(source.rows(2, 5), source.read()[2:5])
        np.testing.assert_array_equal(scales.rows(2, 5), scales.read()[2:5])
    module = graphllm.compile(tmp_path / "m", tmp_path / "p.gllm", context=8).module
    assert module.weights["l0.wo"].type.dtype == "i8"  # not rounded again
    assert module.weights["l0.wo.scale"].type.dtype == "f16"


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


GOLDENS = ["qwen2_tied.f32", "stories260K.f32", "story.f16", "story.q8_0", "story.q4_0"]


@pytest.mark.parametrize("name", GOLDENS)
def test_goldens(name: str) -> None:
    golden = json.loads(shared("gguf/golden.json").read_text())
    assert set(golden) == {f"{each}.gguf" for each in GOLDENS}
    facts = golden[f"{name}.gguf"]
    model = graphllm.load(shared(f"gguf/{name}.gguf"))
    expected = np.load(shared(f"gguf/{name}.logits.npy"))
    bound = max(2e-4, 10 * facts["max_abs_err_hf_f32_vs_numpy_f64"])
    assert np.abs(model.logits(facts["ids"]) - expected).max() <= bound
    answer = model.generate(facts["greedy_prompt_ids"], max_tokens=48, ignore_eos=True)
    assert list(answer.tokens) == facts["greedy_ids"]


def test_the_tokenizers_in_the_goldens() -> None:
    for name, cases in (
        ("stories260K.f32", "tokenizers/tok512/cases.jsonl"),
        ("story.f16", "tokenizers/story_cases.jsonl"),
    ):
        model = graphllm.load(shared(f"gguf/{name}.gguf"))
        assert model.tokenizer is not None
        lines = shared(cases).read_text("utf-8").splitlines()
        good = 0
        for line in lines:
            case = json.loads(line)
            if any(text in case["text"] for text in ("<s>", "</s>", "<unk>", "<|")):
                continue
            good += 1
            assert model.tokenizer.encode(case["text"], bos=case["add_special_tokens"]) == case["ids"], case["text"]
        assert good > 10


def test_llama3_scaling_is_recognised_by_its_factors(tmp_path: Path) -> None:
    scaling = RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)
    config = replace(CONFIG, rope_theta=5e5, head_dim=16, rope_scaling=scaling, context=128)
    tensors = random_tensors(config, np.random.default_rng(0))
    i = np.arange(8)
    plain = 5e5 ** (-i / 8)
    wave = 2 * np.pi / plain
    smooth = (8192 / wave - 1) / 3
    bent = np.where(wave < 2048, plain, np.where(wave > 8192, plain / 8, (1 - smooth) * plain / 8 + smooth * plain))
    factors = (plain / bent).astype(np.float32)
    assert factors[0] == 1
    assert factors[-1] == 8
    write_gguf(tmp_path / "m", metadata(config), gguf_names(tensors) | {"rope_freqs.weight": factors})
    assert open_checkpoint(tmp_path / "m").config.rope_scaling == scaling
    for wrong in (factors[::-1].copy(), factors * 0, np.full(8, np.nan, np.float32), factors[:4]):
        write_gguf(tmp_path / "m", metadata(config), gguf_names(tensors) | {"rope_freqs.weight": wrong})
        with pytest.raises(GraphLLMError, match=r"rope_freqs.weight .*expected"):
            open_checkpoint(tmp_path / "m")


def test_other_scalings_and_windows(tmp_path: Path) -> None:
    tensors = gguf_names(random_tensors(CONFIG, np.random.default_rng(0)))
    scaled = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    write_gguf(tmp_path / "m", metadata(CONFIG, **scaled), tensors)
    assert open_checkpoint(tmp_path / "m").config.rope_scaling == RopeScaling("linear", 4.0)
    scaled = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 16} | {
        "llama.rope.scaling.factor": 4.0,
        "llama.attention.sliding_window": 7,
        "llama.attention.head_count": [4, 4],
    }
    write_gguf(tmp_path / "m", metadata(CONFIG, **scaled), tensors)
    config = open_checkpoint(tmp_path / "m").config
    assert (config.rope_scaling.kind, config.rope_scaling.original_context, config.windows) == ("yarn", 16, (7, 7))
    assert config.rope_scaling.attention_factor == pytest.approx(0.1 * np.log(4) + 1)


def test_the_same_model_as_hugging_face_has_the_same_logits(tmp_path: Path) -> None:
    config = replace(MODELS["qwen2"], bos_id=1)
    tensors = random_tensors(config, np.random.default_rng(0))
    write_gguf(tmp_path / "m.gguf", metadata(config), gguf_names(tensors))
    write_huggingface(tmp_path / "hf", config, tensors)
    ids = list(range(3, 30))
    one, other = (graphllm.load(tmp_path / name).logits(ids) for name in ("m.gguf", "hf"))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_tokenizer_and_template_come_along(tmp_path: Path) -> None:
    config = replace(CONFIG, vocab=264)
    said = metadata(config, **TOKENIZER) | {
        "tokenizer.chat_template": "{{ bos_token }}",
        "tokenizer.chat_template.tool": "t",
    }
    write_gguf(tmp_path / "m.gguf", said, gguf_names(random_tensors(config, np.random.default_rng(0))))
    graphllm.compile(tmp_path / "m.gguf", tmp_path / "p.gllm", context=8)
    model = graphllm.load(tmp_path / "p.gllm")
    assert model.tokenizer is not None
    assert model.encode("a ab") == [1, 262, 262, 261]
    assert model.tokenizer.decode([1, 262, 262, 261]) == "a ab"
    assert model.encode("é")[1:] == [259, 3 + 0xC3, 3 + 0xA9]
    data = model.plan.file.tokenizer
    assert data is not None
    assert (data.kind, data.chat_template, dict(data.other_templates)) == ("gguf", "{{ bos_token }}", {"tool": "t"})
    assert data.special_tokens["bos_token"] == "<s>"
    # a GGUF file is a tokenizer for another checkpoint too
    write_huggingface(
        tmp_path / "hf", replace(config, rope_pairing="half"), random_tensors(config, np.random.default_rng(0))
    )
    assert graphllm.load(tmp_path / "hf", tokenizer=tmp_path / "m.gguf").encode("a ab") == [1, 262, 262, 261]


SAID = metadata(CONFIG)
TENSORS: dict[str, NDArray[Any]] = gguf_names(random_tensors(CONFIG, np.random.default_rng(0)))


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
