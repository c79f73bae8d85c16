"""Flat files of llama2.c: what a writer put in comes out, at the real file's offsets; nothing else is believed."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphllm.cli import main
from graphllm.errors import CheckpointError
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.config import ModelConfig, RopeScaling
from graphllm.frontends.flat_layout import file_bytes
from graphllm.frontends.open import open_checkpoint as read_flat
from graphllm.frontends.overrides import PRESETS, Overrides, preset
from tests.checkpoint_writers import Array, quantize_groups, random_tensors, write_llama2c
from tests.shared_data import shared

CONFIG = ModelConfig(
    family="llama",
    dim=24,
    layers=3,
    heads=6,
    kv_heads=2,
    head_dim=4,
    ffn_dim=20,
    vocab=37,
    context=11,
    norm_eps=1e-5,
    rope_theta=1e4,
    rope_pairing="interleaved",
    bos_id=1,
    eos_ids=(1, 2),
)


def random_config(rng: np.random.Generator) -> ModelConfig:
    kv_heads, repeat, head_dim = (int(n) for n in rng.integers(1, 4, 3))
    heads, head_dim = kv_heads * repeat, 2 * head_dim
    return replace(
        CONFIG,
        dim=heads * head_dim,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        layers=int(rng.integers(1, 5)),
        ffn_dim=int(rng.integers(1, 40)),
        vocab=int(rng.integers(3, 60)),
        context=int(rng.integers(1, 20)),
        tied=bool(rng.integers(2)),
    )


def written(path: Path, version: int, config: ModelConfig = CONFIG, group: int = 0) -> dict[str, Array]:
    tensors = random_tensors(config, np.random.default_rng(7))
    write_llama2c(path, config, tensors, version, group)
    return tensors


def read(checkpoint: Checkpoint, name: str) -> Array:
    """A tensor as f32, int8 groups multiplied out, flat over the matrix."""
    source = checkpoint.tensors[name]
    values = source.read()
    assert values.shape == source.shape
    assert not values.flags.writeable
    if source.dtype == "f32":
        assert values.dtype == np.float32
        return values
    assert (source.dtype, values.dtype) == ("i8", np.int8)
    scales = checkpoint.tensors[f"{name}.scale"].read()
    return (values.reshape(-1, checkpoint.group) * scales.reshape(-1, 1)).reshape(values.shape)


@pytest.mark.parametrize("version", [0, 1])
def test_float_files_hold_what_was_written(tmp_path: Path, version: int) -> None:
    rng = np.random.default_rng(version)
    for index in range(20):
        config = random_config(rng)
        tensors = random_tensors(config, rng)
        path = tmp_path / f"{index}"
        write_llama2c(path, config, tensors, version)
        checkpoint = read_flat(path)
        assert checkpoint.format == f"llama2.c v{version}"
        assert checkpoint.config == config
        assert checkpoint.files == (path,)
        assert checkpoint.group == 0
        assert set(checkpoint.tensors) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(read(checkpoint, name), tensor, name)


@pytest.mark.parametrize(
    ("group", "ffn_scales"), [(4, (20, 6)), (8, (20, 3)), (3, (20, 8)), (24, (20, 1)), (12, (20, 2))]
)
@pytest.mark.parametrize("tied", [True, False])
def test_int8_groups_run_over_the_matrix(tmp_path: Path, group: int, ffn_scales: tuple[int, ...], tied: bool) -> None:
    config = replace(CONFIG, tied=tied, vocab=48)
    path = tmp_path / "model"
    tensors = written(path, 2, config, group)
    checkpoint = read_flat(path)
    assert (checkpoint.format, checkpoint.config, checkpoint.group) == ("llama2.c v2", config, group)
    assert ("lm_head" in checkpoint.tensors) == (not tied)
    assert checkpoint.tensors["l0.w_gate.scale"].shape == ffn_scales
    # Rows of w_down have 20 values: groups that do not divide them straddle rows, and their scales are flat.
    assert checkpoint.tensors["l0.w_down.scale"].shape == ((24, 20 // group) if 20 % group == 0 else (480 // group,))
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            np.testing.assert_array_equal(read(checkpoint, name), tensor)
            continue
        values, scales = quantize_groups(tensor, group)
        np.testing.assert_array_equal(checkpoint.tensors[name].read(), values)
        np.testing.assert_array_equal(checkpoint.tensors[f"{name}.scale"].read().reshape(-1), scales)
        bound = np.repeat(scales, group).reshape(tensor.shape) * 0.5001
        assert (np.abs(read(checkpoint, name) - tensor) <= bound).all()


def test_zero_groups_are_zeros_whatever_int8_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "model"
    tensors = random_tensors(CONFIG, np.random.default_rng(0))
    tensors["tok_emb"][0] = 0
    write_llama2c(path, CONFIG, tensors, 2, group=8)
    data = bytearray(path.read_bytes())
    embedding = 256 + 4 * (2 * 3 * 24 + 24)
    data[embedding : embedding + 24] = bytes([128] * 24)  # what a cast of NaN leaves
    path.write_bytes(data)
    embedded = read(read_flat(path), "tok_emb")
    assert (embedded[0] == 0).all()
    assert np.abs(embedded[1:]).max() > 0


def test_a_scale_that_is_not_finite_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "model"
    written(path, 2, group=8)
    data = bytearray(path.read_bytes())
    scales = 256 + 4 * (2 * 3 * 24 + 24) + 37 * 24
    data[scales : scales + 4] = struct.pack("<f", np.nan)
    path.write_bytes(data)
    checkpoint = read_flat(path)
    checkpoint.tensors["l0.wq.scale"].read()
    with pytest.raises(CheckpointError, match=r"scales of tok_emb hold NaN or infinity; expected finite"):
        checkpoint.tensors["tok_emb.scale"].read()


def test_the_real_file_has_its_tensors_at_the_published_offsets() -> None:
    path = shared("real/stories260K/stories260K.bin")
    checkpoint = read_flat(path)
    assert checkpoint.config == replace(
        CONFIG, dim=64, layers=5, heads=8, kv_heads=4, head_dim=8, ffn_dim=172, vocab=512, context=512, tied=True
    )
    raw = path.read_bytes()
    offsets = {
        "tok_emb": 28,
        "l0.att_norm": 131100,
        "l0.wq": 132380,
        "l0.wk": 214300,
        "l0.wv": 255260,
        "l0.wo": 296220,
        "l0.ffn_norm": 378140,
        "l0.w_gate": 379420,
        "l0.w_down": 599580,
        "l0.w_up": 819740,
        "norm": 1039900,
    }
    for first, offset in offsets.items():
        count = 5 if first.startswith("l0") else 1
        names = [first.replace("l0", f"l{layer}") for layer in range(count)]
        stored = b"".join(checkpoint.tensors[name].read().tobytes() for name in names)
        assert stored == raw[offset : offset + len(stored)], first


def test_the_real_weights_read_alike_from_every_version(tmp_path: Path) -> None:
    path = shared("real/stories260K/stories260K.bin")
    checkpoint = read_flat(path)
    tensors = {name: read(checkpoint, name) for name in checkpoint.tensors}
    for version, size in ((0, 1056540), (1, 1040384), (2, 278608)):
        again = tmp_path / f"v{version}"
        write_llama2c(again, checkpoint.config, tensors, version, group=64 if version == 2 else 0)
        assert again.stat().st_size == size
        for name, tensor in tensors.items():
            tolerance = np.abs(tensor).max() / 254 * 1.001 if version == 2 and tensor.ndim == 2 else 0
            np.testing.assert_allclose(read(read_flat(again), name), tensor, rtol=0, atol=tolerance)
    rewritten = np.frombuffer((tmp_path / "v0").read_bytes(), np.uint8)
    original = np.frombuffer(path.read_bytes(), np.uint8)
    np.testing.assert_array_equal(rewritten[:1040156], original[:1040156])


@pytest.mark.parametrize(
    ("sizes", "tied", "v0", "v2", "int8"),  # sizes: D F L H K V S
    [
        ((64, 172, 5, 8, 4, 512, 512), True, 1056540, 278608, 374640),
        ((288, 768, 6, 6, 6, 32000, 256), True, 60816028, 16152448, 43224224),
        ((2048, 5632, 22, 32, 4, 32000, 2048), False, 4400717852, 1169072384, 1361584160),
        ((4096, 11008, 32, 32, 32, 32000, 2048), False, 26954711068, 7160348928, 7545372704),
        ((4096, 14336, 32, 32, 8, 128256, 8192), False, 32125239324, 8532934912, 10076110880),
    ],
)
def test_sizes_of_published_models(sizes: tuple[int, ...], tied: bool, v0: int, v2: int, int8: int) -> None:
    d, f, layers, heads, kv, vocab, context = sizes
    config = replace(CONFIG, dim=d, ffn_dim=f, layers=layers, heads=heads, kv_heads=kv, head_dim=d // heads)
    config = replace(config, vocab=vocab, context=context, tied=tied)
    found = [
        file_bytes(config, "llama2.c v0"),
        *(file_bytes(config, n, 64) for n in ("llama2.c v2", "KuiperLLama int8")),
    ]
    assert found == [v0, v2, int8]


def test_size_of_a_published_model_with_biases() -> None:
    qwen = replace(CONFIG, dim=896, ffn_dim=4864, layers=24, heads=14, kv_heads=2, head_dim=64, vocab=151936)
    assert file_bytes(replace(qwen, context=32768, tied=True), "KuiperLLama Qwen2") == 1984519708


def test_presets_and_overrides_say_what_the_file_cannot(tmp_path: Path) -> None:
    path = tmp_path / "model"
    written(path, 0)
    assert "norm_eps 1e-05, rope_theta 10000, interleaved RoPE, bos 1, eos 1, 2" in read_flat(path).notes[0]
    scaling = RopeScaling("llama3", 32, 8192)
    chosen = Overrides(norm_eps=0.125, rope_scaling=scaling, context=5).on_top_of(preset("kuiper-llama3"))
    checkpoint = read_flat(path, chosen)
    # Llama 3's special ids lie outside this small vocabulary.
    expected = replace(CONFIG, norm_eps=0.125, rope_theta=5e5, rope_pairing="half", rope_scaling=scaling, context=5)
    assert checkpoint.config == replace(expected, bos_id=None, eos_ids=())
    assert any("eos ids [128001, 128009] are outside the vocabulary of 37" in note for note in checkpoint.notes)
    assert set(read_flat(path).tensors) == set(checkpoint.tensors)
    qwen = read_flat(path, PRESETS["kuiper-qwen2"]).config
    assert (qwen.norm_eps, qwen.rope_theta, qwen.rope_pairing) == (1e-6, 1e6, "half")
    with pytest.raises(CheckpointError, match=r"preset 'gpt2': unknown; expected one of llama2, llama3, kuiper-llama3"):
        preset("gpt2")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (Overrides(norm_eps=float("nan")), "norm_eps"),
        (Overrides(rope_theta=float("inf")), "rope_theta"),
        (Overrides(context=0), "context"),
        (Overrides(eos_ids=(3, -1)), "special token"),
    ],
)
def test_impossible_overrides(tmp_path: Path, overrides: Overrides, named: str) -> None:
    path = tmp_path / "model"
    written(path, 0)
    with pytest.raises(CheckpointError, match=f"{named}.*expected"):
        read_flat(path, overrides)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_every_other_length_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "model"
    written(path, version)
    whole = path.read_bytes()
    rng = np.random.default_rng(version)
    shorter = [1, 4, 27, 28, 29, 37, 40, 255, 256, 257, len(whole) - 1, len(whole) - 4]
    for length in [*shorter, *rng.integers(1, len(whole), 60).tolist()]:
        path.write_bytes(whole[:length])
        with pytest.raises(
            CheckpointError, match=rf"model: {length} bytes; expected|expected 1 to|expected a positive"
        ):
            read_flat(path)
    for extra in (b"\0", b"\0" * 4, whole):
        path.write_bytes(whole + extra)
        with pytest.raises(CheckpointError, match=f"{len(whole + extra)} bytes; expected.* {len(whole)} "):
            read_flat(path)


SIZES = ["dim", "ffn", "layers", "heads", "kv_heads", "vocab", "context"]


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -1, -(2**31), 2**31 - 1, 2**31 - 2, 2**30, 5, 7])
def test_impossible_sizes(tmp_path: Path, version: int, field: str, value: int) -> None:
    path = tmp_path / "model"
    written(path, version)
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 4 * SIZES.index(field) + (0 if version == 0 else 8), value)
    path.write_bytes(data)
    if version > 0 and field == "context" and value > 0:
        assert read_flat(path).config.context == value  # nothing in these files depends on it
        return
    with pytest.raises(CheckpointError, match=r"^[^\n]*expected[^\n]*$"):
        read_flat(path)


@pytest.mark.parametrize(
    ("offset", "packed", "message"),
    [
        (0, b"ak42", "not a checkpoint of a known format; as a llama2.c v0 header: .*; expected"),  # its bytes are 24ka
        (4, struct.pack("<i", 3), "version 3; expected 1 or 2"),
        (4, struct.pack("<i", 0), "version 0; expected 1 or 2"),
        (36, b"\2", "shared classifier flag is 2; expected 0 or 1"),
        (37, struct.pack("<i", 0), "group size is 0; expected a positive one"),
        (37, struct.pack("<i", -64), "group size is -64; expected a positive one"),
        (37, struct.pack("<i", 7), r"group size is 7; expected one that divides tok_emb \(37, 24\)"),
        (37, struct.pack("<i", 2**31 - 1), "group size is 2147483647; expected one that divides"),
    ],
)
def test_impossible_headers(tmp_path: Path, offset: int, packed: bytes, message: str) -> None:
    path = tmp_path / "model"
    written(path, 2)
    data = bytearray(path.read_bytes())
    data[offset : offset + len(packed)] = packed
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_flat(path)


def test_a_fixture_that_is_no_model_lists_what_was_considered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "test.bin"
    path.write_bytes(struct.pack("<7i", 16, 128, 256, 512, 512, 4, 1024) + np.arange(2048, dtype="<f4").tobytes())
    with pytest.raises(CheckpointError, match=r"dim 16 with 512 heads; expected"):
        read_flat(path)
    path.write_bytes(struct.pack("<7i", 16, 128, 256, 4, 2, 4, 1024) + np.arange(2048, dtype="<f4").tobytes())
    with pytest.raises(CheckpointError, match=r"8220 bytes; expected.*\d+ as llama2.c v0, \d+ as KuiperLLama Qwen2"):
        read_flat(path)
    for command in (["run", str(path), "--ids", "1"], ["convert", str(path), "--to", "v1", "-o", str(path) + "1"]):
        assert main(command) == 2
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert "test.bin: 8220 bytes; expected" in said.err
