"""The benchmark's checkpoints are what they say: names, shapes, sizes, same bytes for a seed, sane numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.make_checkpoint import BLOCK_VALUES, DTYPES, SHAPES, RandomBlock, Tensor, make_checkpoint, tensors_of
from tests.golden_checkpoints import read_hf, read_safetensors
from tests.model_zoo import tensor_shapes
from tests.reference_forward import reference_logits

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "make_checkpoint.py"

# Parameters as the models' cards give them.
PARAMETERS = {
    "tinyllama-1.1b": 1_100_048_384,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-0.5b": 494_032_768,
    "stories260k": 260_032,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_true_parameter_counts(name: str) -> None:
    assert sum(tensor.values for tensor in tensors_of(SHAPES[name])) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["tiny", "tiny-qwen", "stories260k"])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_names_shapes_and_finite_logits(name: str, dtype: str, tmp_path: Path) -> None:
    total = make_checkpoint(SHAPES[name], tmp_path, dtype)
    config, tensors = read_hf(tmp_path)
    assert {key: tensor.shape for key, tensor in tensors.items()} == tensor_shapes(config)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(DTYPES[dtype][0])}
    assert total == sum(tensor.nbytes for tensor in tensors.values())
    logits = reference_logits(config, tensors, [1, 5, 250, 7, 7, 30])
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 10


@pytest.mark.parametrize("shards", [1, 3])
def test_the_safetensors_library_opens_it(shards: int, tmp_path: Path) -> None:
    from safetensors import safe_open

    make_checkpoint(SHAPES["tiny"], tmp_path, "f32", shards)
    found: dict[str, tuple[int, ...]] = {}
    where: dict[str, str] = {}
    for path in tmp_path.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            for key in file.keys():  # noqa: SIM118 (the handle is no mapping)
                found[key] = file.get_tensor(key).shape
                where[key] = path.name
    assert found == {tensor.name: tensor.shape for tensor in tensors_of(SHAPES["tiny"])}
    if shards > 1:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
        assert index["weight_map"] == where
        assert len(set(where.values())) == shards
        assert index["metadata"]["total_size"] == 4 * sum(tensor.values for tensor in tensors_of(SHAPES["tiny"]))


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        make_checkpoint(SHAPES["tiny"], tmp_path / folder, "bf16", seed=seed)
    a, b, c = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in "abc")
    assert a == b
    assert len(a) == len(c)
    assert a != c


def test_shards_hold_the_same_values_and_replace_what_was_there(tmp_path: Path) -> None:
    make_checkpoint(SHAPES["tiny"], tmp_path, "f16")
    whole = read_safetensors(tmp_path / "model.safetensors")
    make_checkpoint(SHAPES["tiny"], tmp_path, "f16", shards=4)
    assert not (tmp_path / "model.safetensors").exists()
    parts = {key: value for path in tmp_path.glob("*.safetensors") for key, value in read_safetensors(path).items()}
    assert parts.keys() == whole.keys()
    assert all((parts[key] == whole[key]).all() for key in whole)


def test_a_tensor_larger_than_the_block() -> None:
    tensor = Tensor("w", (1500, 6000), 0.5, 1.0)
    assert tensor.values > 2 * BLOCK_VALUES
    values = np.concatenate(list(RandomBlock(0, "f32", tensor.values).pieces(tensor))).reshape(tensor.shape)
    assert abs(values.mean() - 1.0) < 1e-2
    assert abs(values.std() - 0.5) < 1e-2
    assert len(np.unique(values[:, 0])) > 1000  # rows do not repeat


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "tiny", "-o", str(tmp_path / "made"), "--layers", "1", "--seed", "3"]
    subprocess.run(command, check=True, capture_output=True)
    make_checkpoint(replace(SHAPES["tiny"], layers=1), tmp_path / "called", seed=3)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "called" / name).read_bytes()
    refused = subprocess.run([*command[:-3], "0"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "expected at least 1, got 0" in refused.stderr
