"""Hostile Hugging Face folders and tokenizers for ``test_hostile_checkpoints``: one thing wrong with each."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoint_writers import random_tensors, write_huggingface, write_safetensors
from tests.made_tokenizers import byte_level_file
from tests.small_huggingface import LLAMA
from tests.torch_writer import zip_bytes

Entries = dict[str, dict[str, Any]]

CONFIGS: dict[str, bytes | dict[str, Any]] = {  # in place of config.json, or keys of it
    "deep": b'{"a":' + b"[" * 100_000,
    "nul": bytes(1000),
    "not utf-8": b'{"a": "\xff\xfe"}',
    "digits": b'{"hidden_size": ' + b"9" * 100_000 + b"}",
    "large": b'{"a": "' + b"x" * (65 << 20) + b'"}',
    "width": {"hidden_size": 10**30},
    "negative": {"hidden_size": -64},
    "wide": {"hidden_size": 2**31 - 1, "num_attention_heads": 1},
    "vocab": {"vocab_size": 2**31 - 1},
    "vocab true": {"vocab_size": True},
    "heads": {"num_attention_heads": 2**31 - 1},
    "eps": {"rms_norm_eps": 1e-400},
    "theta": {"rope_theta": 10**400},
    "scaling": {"rope_scaling": [1]},
    "scaling bomb": {"rope_scaling": {"rope_type": "yarn", "factor": 1e300, "original_max_position_embeddings": 0}},
    "head": {"head_dim": 2**30},
    "odd head": {"head_dim": 3},
    "ids": {"eos_token_id": [1] * 100_000},
    "names": {"architectures": ["x" * 1_000_000]},
    "escape": {"hidden_act": "\x1b]0;x\x07"},
}

TENSORS: dict[str, Callable[[Entries, str, str], object]] = {  # done to a header, given two of its names
    "overlap": lambda h, a, b: h[a].update(data_offsets=h[b]["data_offsets"]),
    "dtype": lambda h, a, b: h[a].update(dtype="BF16"),
    "dtype unknown": lambda h, a, b: h[a].update(dtype="F8_E4M3"),
    "negative": lambda h, a, b: h[a].update(shape=[-1, -64]),
    "none": lambda h, a, b: h[a].update(shape=[0, 64], data_offsets=[0, 0]),
    "scalar": lambda h, a, b: h[a].update(shape=[], data_offsets=[0, 4]),
    "backwards": lambda h, a, b: h[a].update(data_offsets=h[a]["data_offsets"][::-1]),
    "fractions": lambda h, a, b: h[a].update(shape=[64.0, 64]),
    "huge": lambda h, a, b: h[a].update(shape=[2**40, 2**40]),
    "dimensions": lambda h, a, b: h[a].update(shape=[1] * 100_000),
    "metadata": lambda h, a, b: h.update(__metadata__={"a": {}}),
    "null": lambda h, a, b: h.update({a: None}),  # type: ignore[dict-item]
    "many": lambda h, a, b: h.update(
        {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(100_001)}
    ),
}

TARGETS = (
    "/etc/passwd",
    "model.safetensors.index.json",
    ".",
    "..",
    "",
    "..\\x",
    "a" * 5000,
    "/dev/zero",
    "config.json",
)

SPECIALS = {"id": "x", "ids": [1] * 1000, "tokens": ["x"] * 1000}
AROUND = [{"Sequence": {"id": "A", "type_id": 0}}]


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


TOKENIZERS: dict[str, dict[str, Any]] = {  # keys of a tokenizer.json
    "regex that takes forever": {"pre_tokenizer": split("(a+)+$")},
    "regex of many": {"pre_tokenizer": split("(x)\\1{1000000}")},
    "regex damaged": {"pre_tokenizer": split("(?P<")},
    "texts that grow": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60,
        }
    },
    "texts in front": {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x" * 100_000}] * 60}
    },
    "specials of many": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "x", "type_id": 0}}] * 100_000 + AROUND,
            "pair": [],
            "special_tokens": {"x": SPECIALS},
        }
    },
    "specials of no name": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "y", "type_id": 0}}, *AROUND],
            "pair": [],
            "special_tokens": {"x": SPECIALS},
        }
    },
}

LISTED = b"\x80\x02]" + b"q\x00"
DOUBLED = b"".join(b"(" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"lq" + bytes([i + 1]) for i in range(60))
PICKLES = {
    "doubled": LISTED + DOUBLED + b".",  # 2^60 items for whoever walks them
    "itself": LISTED + b"h\x00a.",
    "long": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"\xff" * 100 + b".",
    "long negative": b"\x80\x02\x8b" + struct.pack("<i", -5) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"].",
    "memo": b"\x80\x02]r\xff\xff\xff\xff.",
    "deep": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0atouch evil\x85R.",
    "new object": b"\x80\x04ctorch\nTensor\n)\x81.",
}


def write(folder: Path) -> int:
    """Write the set, each under a name that ``test_hostile_checkpoints`` opens as what it is; how many."""
    tensors = random_tensors(LLAMA, np.random.default_rng(0))
    made = 0

    def place(name: str) -> Path:
        nonlocal made
        made += 1
        write_huggingface(folder / f"hf {name}", LLAMA, tensors)
        return folder / f"hf {name}"

    for name, said in CONFIGS.items():
        config = place(f"config {name}") / "config.json"
        config.write_bytes(
            said if isinstance(said, bytes) else json.dumps(json.loads(config.read_text()) | said).encode()
        )
    for name, change in TENSORS.items():
        file = place(f"tensors {name}") / "model.safetensors"
        raw = file.read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        change(header, *[key for key in header if key != "__metadata__"][:2])
        write_safetensors(file, header, raw[8 + size :])
    for i, target in enumerate(TARGETS):
        file = place(f"index {i}") / "model.safetensors"
        file.unlink()
        names = {"model.norm.weight": target, "model.embed_tokens.weight": target}
        (file.parent / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    for name, content in PICKLES.items():
        made += 1
        (folder / f"pickle of {name}").write_bytes(zip_bytes({"data.pkl": content}))
    for name, keys in TOKENIZERS.items():
        made += 1
        (folder / f"tokenizer of {name}").write_text(json.dumps(json.loads(byte_level_file()) | keys))
    os.truncate(place("weights of a terabyte") / "model.safetensors", 1 << 40)
    if hasattr(os, "mkfifo"):
        for i, (name, make) in enumerate(
            (name, make) for name in ("config.json", "model.safetensors") for make in NO_FILES
        ):
            (file := place(f"file {i}") / name).unlink()
            make(file)
    return made


NO_FILES: tuple[Callable[[Path], object], ...] = (
    lambda path: os.mkfifo(path),
    lambda path: path.mkdir(),
    lambda path: path.symlink_to(path.name),
    lambda path: path.symlink_to("/dev/zero"),
)
