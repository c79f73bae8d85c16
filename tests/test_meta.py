"""Meta's folders and llama2.c's training checkpoints: what was cut comes together, and the sizes are the tensors'."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm
from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig, RopeScaling
from graphllm.frontends.meta import ffn_by_rule
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.overrides import Overrides
from tests.checkpoint_writers import random_tensors, write_llama2c
from tests.shared_data import shared
from tests.torch_writer import Shared, torch_bytes, write_torch

CONFIG = ModelConfig(
    "llama", 24, 3, 6, 2, 4, 20, 38, 2048, 1e-5, 1e4, "interleaved", bos_id=1, eos_ids=(2,), tied=False
)
LAYER = {
    "att_norm": "attention_norm.weight",
    "wq": "attention.wq.weight",
    "wk": "attention.wk.weight",
    "wv": "attention.wv.weight",
    "wo": "attention.wo.weight",
    "ffn_norm": "ffn_norm.weight",
    "w_gate": "feed_forward.w1.weight",
    "w_down": "feed_forward.w2.weight",
    "w_up": "feed_forward.w3.weight",
}
MODEL = {"tok_emb": "tok_embeddings.weight", "norm": "norm.weight", "lm_head": "output.weight"}


def meta_names(tensors: dict[str, Any]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        names[f"layers.{layer[1:]}.{LAYER[part]}" if layer else MODEL[name]] = tensor
    return names


def params(config: ModelConfig, **more: Any) -> dict[str, Any]:
    said = {
        "dim": config.dim,
        "n_layers": config.layers,
        "n_heads": config.heads,
        "n_kv_heads": config.kv_heads,
        "vocab_size": -1,
        "multiple_of": 4,
        "norm_eps": config.norm_eps,
    }
    return said | more


def write_meta(
    folder: Path,
    config: ModelConfig,
    tensors: dict[str, NDArray[Any]],
    shards: int = 1,
    embedding_axis: int = 0,
    repeat_kv: int = 1,
    **more: Any,
) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params(config, **more)))
    for shard in range(shards):
        part: dict[str, Any] = {}
        for name, tensor in meta_names(tensors).items():
            axis = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
            axis = embedding_axis if name.startswith("tok_emb") else axis
            pieces, at = shards, shard
            if name.endswith(("wk.weight", "wv.weight")) and repeat_kv > 1:
                pieces, at = shards // repeat_kv, shard // repeat_kv
            part[name] = tensor if tensor.ndim == 1 else np.ascontiguousarray(np.split(tensor, pieces, axis)[at])
        part["rope.freqs"] = np.arange(config.head_dim // 2, dtype=np.float32)
        write_torch(folder / f"consolidated.{shard:02d}.pth", OrderedDict(part))


def assert_same(checkpoint: Any, tensors: dict[str, NDArray[Any]]) -> None:
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        source = checkpoint.tensors[name]
        np.testing.assert_array_equal(source.read(), tensor, name)
        rows = tensor.shape[0]
        for begin, end in ((0, 1), (rows // 3, rows), (rows // 2 - 1, rows // 2 + 1)):
            np.testing.assert_array_equal(source.rows(begin, end), tensor[begin:end], name)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_slices_come_together(tmp_path: Path, shards: int, axis: int, dtype: Any) -> None:
    tensors = {n: t.astype(dtype) for n, t in random_tensors(CONFIG, np.random.default_rng(1)).items()}
    write_meta(tmp_path / "m", CONFIG, tensors, shards, axis)
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.format == "meta"
    assert checkpoint.config == CONFIG
    assert len(checkpoint.files) == 1 + shards
    assert_same(checkpoint, tensors)


def test_more_shards_than_kv_heads(tmp_path: Path) -> None:
    config = replace(CONFIG, heads=4, kv_heads=2, head_dim=6, vocab=40)
    tensors = random_tensors(config, np.random.default_rng(2))
    write_meta(tmp_path / "m", config, tensors, 4, repeat_kv=2)
    assert_same(open_checkpoint(tmp_path / "m"), tensors)


def test_a_tied_model_stores_no_output_or_the_same(tmp_path: Path) -> None:
    config = replace(CONFIG, tied=True)
    tensors = random_tensors(config, np.random.default_rng(3))
    write_meta(tmp_path / "a", config, tensors)
    write_meta(tmp_path / "b", config, tensors | {"lm_head": tensors["tok_emb"]})
    write_meta(tmp_path / "c", config, tensors | {"lm_head": tensors["tok_emb"].copy()})
    for name in "abc":
        checkpoint = open_checkpoint(tmp_path / name)
        assert checkpoint.config == config
        assert_same(checkpoint, tensors)


@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "size"),
    [
        (4096, 256, None, 11008),
        (5120, 256, None, 13824),
        (8192, 4096, 1.3, 28672),
        (4096, 1024, 1.3, 14336),
        (2048, 256, 1.5, 8192),
        (3072, 256, 1.0, 8192),
        (64, 4, None, 172),
        (288, 32, None, 768),
        (512, 32, None, 1376),
        (768, 32, None, 2048),
    ],
)
def test_feed_forward_rule(dim: int, multiple_of: int, multiplier: float | None, size: int) -> None:
    assert ffn_by_rule(dim, multiple_of, multiplier) == size


def test_the_tensors_know_the_feed_forward_size(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, np.random.default_rng(1))
    write_meta(tmp_path / "m", CONFIG, tensors)
    assert any("feed-forward size is 20 by the tensors and 64 by" in n for n in open_checkpoint(tmp_path / "m").notes)


def test_params_say_theta_scaling_and_unknown_things(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG, np.random.default_rng(1))
    write_meta(tmp_path / "m", CONFIG, tensors, rope_theta=5e5, use_scaled_rope=True, some_new_key={"a": 1})
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.config.rope_theta == 5e5
    assert checkpoint.config.rope_scaling == RopeScaling("llama3", 8.0, 8192, 1.0, 4.0)
    assert any("assumed 8" in note for note in checkpoint.notes)
    other = RopeScaling("llama3", 32.0, 8192, 1.0, 4.0)
    assert open_checkpoint(tmp_path / "m", Overrides(rope_scaling=other)).config.rope_scaling == other


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_training_checkpoints(tmp_path: Path, prefix: str) -> None:
    config = replace(CONFIG, tied=True, context=64, eos_ids=(1, 2))
    tensors = random_tensors(config, np.random.default_rng(4))
    model = {prefix + name: tensor for name, tensor in meta_names(tensors).items()}
    model[f"{prefix}output.weight"] = Shared(tensors["tok_emb"], 0, tensors["tok_emb"].shape)
    args = params(config, vocab_size=config.vocab, max_seq_len=64, dropout=0.0)
    optimizer = {
        "state": {0: {"step": np.zeros((), np.float32), "exp_avg": np.zeros(3, np.float32)}},
        "param_groups": [{"lr": 1e-4, "params": [0, 1], "betas": (0.9, 0.95)}],
    }
    saved = {
        "model": model,
        "optimizer": optimizer,
        "model_args": args,
        "iter_num": 1000,
        "best_val_loss": np.array(1.5, np.float32),
        "config": {"out_dir": "out", "compile": True, "seed": 2**31, "none": None, "small": -5},
    }
    for protocol in (2, 3, 4, 5):
        write_torch(tmp_path / "ckpt.pt", saved, protocol)
        checkpoint = open_checkpoint(tmp_path / "ckpt.pt")
        assert checkpoint.format == "llama2.c training"
        assert checkpoint.config == config
        assert_same(checkpoint, tensors)


def test_the_real_model_as_meta_and_as_training_has_the_same_logits(tmp_path: Path) -> None:
    path = shared("real/stories260K/stories260K.bin")
    flat = open_checkpoint(path)
    tensors = {name: np.array(source.read()) for name, source in flat.tensors.items()}
    write_meta(tmp_path / "meta", replace(flat.config, norm_eps=1e-5), tensors, 2, 1)
    args = params(flat.config, vocab_size=512, max_seq_len=512)
    write_torch(tmp_path / "ckpt.pt", {"model": meta_names(tensors), "model_args": args})
    ids = [1, 403, 407, 261, 378, 432, 383]
    expected = graphllm.load(path).logits(ids)
    for name in ("meta", "ckpt.pt"):
        assert graphllm.load(tmp_path / name).logits(ids).tobytes() == expected.tobytes()


def test_weights_of_pytorch_in_a_hugging_face_folder(tmp_path: Path) -> None:
    from tests.checkpoint_writers import huggingface_names, write_huggingface

    config = replace(CONFIG, rope_pairing="half", context=64)
    tensors = random_tensors(config, np.random.default_rng(5))
    write_huggingface(tmp_path / "hf", config, tensors)
    (tmp_path / "hf" / "model.safetensors").unlink()
    named = huggingface_names(tensors)
    write_torch(tmp_path / "hf" / "pytorch_model.bin", OrderedDict(named))
    assert_same(open_checkpoint(tmp_path / "hf"), tensors)
    (tmp_path / "hf" / "pytorch_model.bin").unlink()
    files = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(named)}
    for file in set(files.values()):
        write_torch(tmp_path / "hf" / file, {n: t for n, t in named.items() if files[n] == file})
    (tmp_path / "hf" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    assert_same(open_checkpoint(tmp_path / "hf"), tensors)


def edit(folder: Path, **changes: Any) -> None:
    said = json.loads((folder / "params.json").read_text()) | changes
    (folder / "params.json").write_text(json.dumps({k: v for k, v in said.items() if v is not ...}))


WRONG: dict[str, tuple[Any, str]] = {
    "no dim": (lambda f: edit(f, dim=...), "dim absent; expected a whole number"),
    "heads": (lambda f: edit(f, n_heads=5), "n_heads is 5; expected a number that divides dim, 24"),
    "kv heads": (lambda f: edit(f, n_kv_heads=4), "6 heads with 4 kv heads"),
    "other kv heads": (lambda f: edit(f, n_kv_heads=3), r"wk.weight has shapes .*; expected slices of \[12, 24\]"),
    "vocab": (lambda f: edit(f, vocab_size=37), "vocab_size is 37; expected 38"),
    "eps": (lambda f: edit(f, norm_eps=float("nan")), "norm_eps is nan; expected a number"),
    "layers": (lambda f: edit(f, n_layers=4), "layers.3.*is missing; expected it in a model of 4 layers"),
    "huge": (lambda f: edit(f, n_layers=10**9), "n_layers is 1000000000; expected a whole number from 1 to 4096"),
    "other dim": (lambda f: edit(f, dim=12), "expected"),
    "experts": (lambda f: edit(f, moe={"num_experts": 8}), "experts .* not supported"),
    "no shard": (lambda f: (f / "consolidated.00.pth").unlink(), "2 shards|1 shards without consolidated.00.pth"),
    "torn shard": (lambda f: (f / "consolidated.01.pth").write_bytes(b"PK\x03\x04" + bytes(50)), "damaged zip"),
    "other file": (lambda f: (f / "consolidated.01.pth").write_bytes(b"hello"), "damaged zip file"),
    "empty dict": (lambda f: write_torch(f / "consolidated.01.pth", {}), "no tensors; expected a state dict"),
    "list": (lambda f: write_torch(f / "consolidated.01.pth", [1]), "no tensors; expected a state dict"),
    "not json": (lambda f: (f / "params.json").write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_folders_are_told(tmp_path: Path, kind: str) -> None:
    damage, message = WRONG[kind]
    folder = tmp_path / "m"
    write_meta(folder, CONFIG, random_tensors(CONFIG, np.random.default_rng(0)), 2)
    damage(folder)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_checkpoint(folder)


def test_a_lone_state_dict_is_told_its_folder(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(torch_bytes({"a": np.zeros(3, np.float32)}))
    with pytest.raises(CheckpointError, match=r"a state dict of PyTorch; its folder with config.json or params.json"):
        open_checkpoint(tmp_path / "x.pth")


def test_llama2c_reads_what_was_trained(tmp_path: Path) -> None:
    """The same model as a training checkpoint and as the file that llama2.c exports from it."""
    config = replace(CONFIG, tied=True, context=64)
    tensors = random_tensors(config, np.random.default_rng(4))
    args = params(config, vocab_size=config.vocab, max_seq_len=64)
    write_torch(tmp_path / "ckpt.pt", {"model": meta_names(tensors), "model_args": args})
    write_llama2c(tmp_path / "model.bin", config, tensors)
    ids = list(range(3, 30))
    one, other = (graphllm.load(tmp_path / name).logits(ids) for name in ("ckpt.pt", "model.bin"))
    assert one.tobytes() == other.tobytes()
