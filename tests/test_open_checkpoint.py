"""One door for every checkpoint: what is in the file decides, and what is no checkpoint is refused in one line."""

from __future__ import annotations

import os
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graphllm.errors import CheckpointError
from graphllm.frontends.config import ModelConfig
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.overrides import Overrides
from tests.checkpoint_writers import random_tensors, write_huggingface, write_llama2c, write_safetensors
from tests.shared_data import shared

CONFIG = ModelConfig("llama", 16, 2, 4, 2, 4, 12, 20, 8, 1e-5, 1e4, "interleaved", bos_id=1, eos_ids=(1, 2))


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("name", ["model.bin", "model.gguf", "model.safetensors", "config.json", "model"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, version: int, name: str) -> None:
    path = tmp_path / name
    write_llama2c(path, CONFIG, random_tensors(CONFIG, np.random.default_rng(0)), version)
    checkpoint = open_checkpoint(str(path), Overrides(rope_theta=99.0))
    assert checkpoint.format == f"llama2.c v{version}"
    assert checkpoint.config == replace(CONFIG, rope_theta=99.0)


def test_folders_are_hugging_face(tmp_path: Path) -> None:
    config = replace(CONFIG, rope_pairing="half")
    write_huggingface(tmp_path / "model.bin", config, random_tensors(config, np.random.default_rng(0)))
    assert open_checkpoint(tmp_path / "model.bin").config == config


@pytest.mark.parametrize("dim", [640, 896, 1152, 1408])
def test_sizes_that_begin_like_a_pickle_are_sizes(tmp_path: Path, dim: int) -> None:
    config = replace(CONFIG, dim=dim, heads=2, kv_heads=1, head_dim=dim // 2, layers=1, ffn_dim=2, vocab=3, context=1)
    path = tmp_path / "model"
    write_llama2c(path, replace(config, bos_id=None), random_tensors(config, np.random.default_rng(0)))
    assert open_checkpoint(path).config == config


def make_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}q\x00.")


OTHER: dict[str, tuple[Callable[[Path], object], str]] = {
    "gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + bytes(100)), "a GGUF file without tensors"),
    "zip": (make_zip, "a file of torch.save that is no state dict"),
    "pickle": (
        lambda path: path.write_bytes(bytes.fromhex("80028a0a6cfc9c46f9206aa850192e") + bytes(50)),
        r"a pickle, as old torch.save makes \(before PyTorch 1.6\), which is never opened",
    ),
    "lone safetensors": (
        lambda path: write_safetensors(path, {"__metadata__": {"format": "pt"}}),
        "a lone safetensors file; .* give the folder",
    ),
    "plan": (
        lambda path: write_safetensors(path, {"__metadata__": {"format": "gllm"}}),
        "a compiled plan and not a checkpoint",
    ),
    "json": (lambda path: path.write_text('{"hidden_size": 3}'), "a JSON file; give its folder"),
    "text": (lambda path: path.write_text("Once upon a time there was a model"), "not a checkpoint of a known format"),
    "empty": (lambda path: path.write_bytes(b""), "an empty file; expected a checkpoint"),
    "short": (lambda path: path.write_bytes(b"abc"), "3 bytes; expected a checkpoint"),
    "zeros": (lambda path: path.write_bytes(bytes(10000)), "not a checkpoint of a known format"),
    "missing": (lambda path: None, "no such file or folder"),
    "fifo": (lambda path: os.mkfifo(path), "a named pipe; expected a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device; expected a file"),
    "broken link": (lambda path: path.symlink_to(path.parent / "gone"), "no such file or folder"),
    "link to itself": (lambda path: path.symlink_to(path), "cannot be read"),
    "empty folder": (lambda path: path.mkdir(), "a folder without config.json or params.json; expected a folder of"),
    "folder of a file": (
        lambda path: (path.mkdir(), (path / "a.gguf").write_bytes(b"")),
        "a folder without config.json or params.json, with a.gguf in it; expected a folder of",
    ),
    "meta folder": (
        lambda path: (path.mkdir(), (path / "params.json").write_text("{}")),
        "no weights; expected consolidated.00.pth beside params.json",
    ),
    "config folder": (
        lambda path: (path / "config.json").mkdir(parents=True),
        "config.json: a folder; expected a file",
    ),
    "config fifo": (
        lambda path: (path.mkdir(), os.mkfifo(path / "config.json")),
        "config.json: a named pipe; expected a file",
    ),
}


@pytest.mark.parametrize("kind", OTHER)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, kind: str) -> None:
    make, message = OTHER[kind]
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(CheckpointError, match=rf"^[^\n]*thing[^\n]*{message}[^\n]*$"):
        open_checkpoint(path)


def test_a_socket_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is limited to 100 bytes or so
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("thing")
        with pytest.raises(CheckpointError, match=r"^'?thing'?: [^\n]*; expected[^\n]*$"):
            open_checkpoint("thing")


@pytest.mark.parametrize("name", ["nul\0byte", "x" * 5000, "model.bin/inside"])
def test_paths_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"^[^\n]*; expected a checkpoint$"):
        open_checkpoint(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_llama2c(path, CONFIG, random_tensors(CONFIG, np.random.default_rng(0)))
    path.chmod(0)
    with pytest.raises(CheckpointError, match="no permission to read it"):
        open_checkpoint(path)


def test_random_bytes_never_crash(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    path = tmp_path / "noise"
    starts = [b"", struct.pack("<Ii", 0x616B3432, 1), struct.pack("<Ii", 0x616B3432, 2), struct.pack("<Q", 40) + b"{"]
    for round_number in range(400):
        small = rng.integers(0, 9, 7, dtype="<i4").tobytes() if round_number % 2 else b""
        path.write_bytes(starts[round_number % 4] + small + rng.bytes(int(rng.integers(1, 400))))
        with pytest.raises(CheckpointError, match=r"^[^\n]+$"):
            open_checkpoint(path)


def test_tokenizers_are_no_checkpoints() -> None:
    for name in (
        "real/stories260K/tok512.bin",
        "tokenizers/llama2/tokenizer.model",
        "tokenizers/llama3/tokenizer.model",
    ):
        with pytest.raises(CheckpointError, match="not a checkpoint of a known format"):
            open_checkpoint(shared(name))
