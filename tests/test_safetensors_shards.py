"""The index of a sharded model: it may name files of its folder and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.errors import CheckpointError
from graphllm.frontends.huggingface import read_huggingface
from tests.checkpoint_writers import (
    random_tensors,
    write_huggingface,
)
from tests.small_huggingface import LLAMA, change

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    write_huggingface(path, LLAMA, random_tensors(LLAMA, np.random.default_rng(1)), shards=2)
    return path


@pytest.mark.parametrize("name", ["../other", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "C:x", "nul\0byte"])
def test_an_index_names_bare_files_only(sharded: Path, name: str) -> None:
    weights = json.loads((sharded / INDEX).read_text())["weight_map"]
    change(sharded, INDEX, weight_map=weights | {"model.norm.weight": name})
    with pytest.raises(CheckpointError, match=r"^[^\n]*shard [^\n]*; expected a bare file name inside [^\n]*$"):
        read_huggingface(sharded)


def test_an_index_follows_no_link_out_of_its_folder(sharded: Path) -> None:
    outside = sharded.parent / "outside.safetensors"
    (sharded / SHARD).rename(outside)
    (sharded / SHARD).symlink_to(outside)
    with pytest.raises(CheckpointError, match=f"shard '{SHARD}' is a link to .*outside.*; expected it inside"):
        read_huggingface(sharded)
    (sharded / SHARD).unlink()
    outside.rename(sharded / "inside")
    (sharded / SHARD).symlink_to("inside")
    assert read_huggingface(sharded).config == LLAMA


def test_the_hub_cache_is_a_folder_of_links_to_blobs(sharded: Path) -> None:
    snapshot, blobs = sharded.parent / "snapshots" / "abc", sharded.parent / "blobs"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for index, path in enumerate(sorted(sharded.iterdir())):
        path.rename(blobs / str(index))
        (snapshot / path.name).symlink_to(f"../../blobs/{index}")
    assert read_huggingface(snapshot).config == LLAMA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_map": ...}, "no weight_map; expected an object"),
        ({"weight_map": {}}, "no weight_map; expected an object"),
        ({"weight_map": []}, "weight_map is .*; expected an object"),
        ({"weight_map": {"x": 3}}, "weight_map: x is 3; expected a file name"),
        ({"weight_map": {"x": SHARD}}, f"x is not in {SHARD}; expected it there"),
        ({"weight_map": {"x": "gone.safetensors"}}, "gone.safetensors: no such file"),
        ({"weight_map": {"x": "config.json"}}, "config.json: not a whole safetensors file"),
    ],
)
def test_wrong_indexes(sharded: Path, changes: dict[str, Any], message: str) -> None:
    change(sharded, INDEX, **changes)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*{message}[^\n]*$"):
        read_huggingface(sharded)


def test_a_folder_without_weights_says_what_it_found(tmp_path: Path) -> None:
    folder = tmp_path
    write_huggingface(folder, LLAMA, random_tensors(LLAMA, np.random.default_rng(1)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"no weights; expected one of model.safetensors, pytorch_model.bin, [a-z_., ]*$"
    ):
        read_huggingface(folder)
    (folder / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"no weights; .* got a GGUF file, to be given by itself"):
        read_huggingface(folder)
