"""KuiperLLama's files: told apart by their exact size, with the meanings that only a preset can give."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import graphllm
from graphllm.errors import CheckpointError
from graphllm.frontends.open import open_checkpoint as read_flat
from graphllm.frontends.overrides import Overrides, preset
from tests.checkpoint_writers import quantize_groups, random_tensors, write_huggingface, write_kuiper, write_llama2c
from tests.test_flat_file import CONFIG, random_config, read

HALF = replace(CONFIG, rope_pairing="half")


@pytest.mark.parametrize("seed", range(8))
def test_biases_are_found_by_size(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = replace(random_config(rng), qkv_bias=True)
    tensors = random_tensors(config, rng)
    write_kuiper(tmp_path / "m", config, tensors)
    checkpoint = read_flat(tmp_path / "m")
    assert checkpoint.format == "KuiperLLama Qwen2"
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read(checkpoint, name), tensor, name)
    # no preset was asked for: biases are Qwen2's
    assert (checkpoint.config.rope_theta, checkpoint.config.rope_pairing) == (1e6, "half")
    assert checkpoint.config.qkv_bias
    chosen = read_flat(tmp_path / "m", Overrides(rope_theta=7.0, rope_pairing="interleaved")).config
    assert (chosen.rope_theta, chosen.rope_pairing, chosen.norm_eps) == (7.0, "interleaved", 1e-6)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("group", [4, 8, 16])
def test_int8_keeps_embedding_and_norms_in_f32(tmp_path: Path, tied: bool, group: int) -> None:
    config = replace(CONFIG, tied=tied, vocab=48)
    tensors = random_tensors(config, np.random.default_rng(group))
    write_kuiper(tmp_path / "m", config, tensors, group)
    checkpoint = read_flat(tmp_path / "m")
    assert (checkpoint.format, checkpoint.group, checkpoint.config) == ("KuiperLLama int8", group, config)
    assert checkpoint.tensors["tok_emb"].dtype == "f32"
    assert ("lm_head" in checkpoint.tensors) == (not tied)
    for name, tensor in tensors.items():
        if tensor.ndim == 1 or name == "tok_emb":
            np.testing.assert_array_equal(read(checkpoint, name), tensor)
            continue
        values, scales = quantize_groups(tensor, group)
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), values)
        np.testing.assert_array_equal(checkpoint.tensors[f"{name}.scale"].read().reshape(-1), scales)


def test_a_tied_int8_file_classifies_with_its_f32_embedding(tmp_path: Path) -> None:
    """KuiperLLama itself reads the bytes of the embedding as int8 there; ours gives the logits of the f32 model."""
    config = replace(CONFIG, tied=True, context=32)
    tensors = random_tensors(config, np.random.default_rng(3))
    write_kuiper(tmp_path / "int8", config, tensors, 4)
    rounded = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim == 2 and name != "tok_emb":
            values, scales = quantize_groups(tensor, 4)
            rounded[name] = (values.reshape(-1, 4) * scales[:, None]).reshape(tensor.shape).astype(np.float32)
    write_kuiper(tmp_path / "f32", config, rounded)
    ids = list(range(3, 20))
    ours = graphllm.load(tmp_path / "int8").logits(ids)
    np.testing.assert_allclose(ours, graphllm.load(tmp_path / "f32").logits(ids), atol=1e-5)


@pytest.mark.parametrize("name", ["llama2", "llama3", "kuiper-llama3", "kuiper-qwen2"])
def test_presets_give_one_file_its_meanings(tmp_path: Path, name: str) -> None:
    """The same weights as a Hugging Face folder that says eps and theta itself."""
    meaning = preset(name)
    config = replace(meaning.apply(CONFIG), context=32, bos_id=None, eos_ids=())
    tensors = random_tensors(config, np.random.default_rng(1))
    write_kuiper(tmp_path / "m.bin", config, tensors)
    half = dict(tensors)
    if config.rope_pairing == "interleaved":  # Hugging Face rows are in half-split order
        for tensor in [t for t in tensors if t.endswith(("wq", "wk"))]:
            rows = tensors[tensor].reshape(-1, config.head_dim // 2, 2, config.dim)
            half[tensor] = rows.swapaxes(1, 2).reshape(tensors[tensor].shape)
    write_huggingface(tmp_path / "hf", replace(config, rope_pairing="half", eos_ids=(0,)), half)
    ids = list(range(3, 30))
    ours = graphllm.load(tmp_path / "m.bin", overrides=meaning).logits(ids)
    np.testing.assert_allclose(ours, graphllm.load(tmp_path / "hf").logits(ids), atol=2e-5)


def test_a_plain_file_is_v0(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, np.random.default_rng(0))
    write_kuiper(tmp_path / "kuiper", CONFIG, tensors)
    write_llama2c(tmp_path / "v0", CONFIG, tensors)
    assert (tmp_path / "kuiper").stat().st_size == (tmp_path / "v0").stat().st_size
    assert read_flat(tmp_path / "kuiper").format == "llama2.c v0"


def test_int8_of_qwen2_lacks_its_biases(tmp_path: Path) -> None:
    config = replace(CONFIG, dim=4, heads=1, kv_heads=1, head_dim=4, layers=1, ffn_dim=4, vocab=151936, tied=True)
    write_kuiper(tmp_path / "m", config, random_tensors(config, np.random.default_rng(0)), 4)
    with pytest.raises(CheckpointError, match=r"drops Qwen2's, so the weights are not whole; export it as f32$"):
        read_flat(tmp_path / "m")


def test_llama3s_vocabulary_speaks_against_the_assumption(tmp_path: Path) -> None:
    config = replace(CONFIG, dim=4, heads=1, kv_heads=1, head_dim=4, layers=1, ffn_dim=4, vocab=128256, tied=True)
    write_kuiper(tmp_path / "m", config, random_tensors(config, np.random.default_rng(0)))
    assert any("whose rope_theta is 5e5" in note for note in read_flat(tmp_path / "m").notes)
    assert not any("is Llama 3's" in note for note in read_flat(tmp_path / "m", preset("kuiper-llama3")).notes)


@pytest.mark.parametrize("group", [0, 8])
def test_every_other_length_is_refused(tmp_path: Path, group: int) -> None:
    config = replace(CONFIG, qkv_bias=group == 0, vocab=48)
    path = tmp_path / "m"
    write_kuiper(path, config, random_tensors(config, np.random.default_rng(0)), group)
    whole = path.read_bytes()
    for length in [*range(1, 40), *np.random.default_rng(0).integers(40, len(whole), 60).tolist(), len(whole) + 1]:
        path.write_bytes((whole + b"\0")[:length])
        with pytest.raises(CheckpointError, match=r"^[^\n]*expected[^\n]*$"):
            read_flat(path)


def test_a_group_size_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "m"
    write_kuiper(path, CONFIG, random_tensors(CONFIG, np.random.default_rng(0)), 8)
    data = bytearray(path.read_bytes())
    for group in (0, -8, 7, 2**31 - 1):
        struct.pack_into("<i", data, 28, group)
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"expected, by its header"):
            read_flat(path)
