"""Every reader under bytes that hypothesis bends: whatever comes out, it is a checkpoint or one line.

GRAPHLLM_FUZZ_SECONDS says how long each of the five goes on: 2 as a rule, 60 in .ci/run.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from graphllm.errors import GraphLLMError
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.runtime.tokenizer import load_tokenizer
from tests.checkpoint_writers import random_tensors, write_huggingface, write_kuiper, write_llama2c
from tests.gguf_writer import gguf_bytes
from tests.small_huggingface import LLAMA
from tests.test_flat_file import CONFIG as FLAT
from tests.test_gguf import SAID, TENSORS, TOKENIZER
from tests.test_llama3_tokenizer import document, file_of, synthetic
from tests.test_meta import meta_names, params
from tests.test_tokenizers import byte_level_file, llama2c_file, sentencepiece_model
from tests.torch_writer import torch_bytes

SECONDS = float(os.environ.get("GRAPHLLM_FUZZ_SECONDS", "2"))
NUMBERS = st.sampled_from([0, 1, 2, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1])
EDIT = st.one_of(
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("u32"), st.floats(0, 1), NUMBERS),
    st.tuples(st.just("u64"), st.floats(0, 1), NUMBERS),
    st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 64)),
    st.tuples(st.just("copy"), st.floats(0, 1), st.integers(1, 64)),
)
HEAD = 3000  # most edits go where headers are


def bent(whole: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    data = bytearray(whole)
    for kind, where, value in edits:
        at = int(where * where * max(0, min(len(data), HEAD) - 1))
        if kind == "byte" and data:
            data[at] = value
        elif kind in ("u32", "u64"):
            packed = struct.pack("<Q", value)[: 4 if kind == "u32" else 8]
            data[at : at + len(packed)] = packed
        elif kind == "cut":
            del data[at : at + value if value else len(data)]
        elif kind == "copy":
            data[at:at] = data[at : at + value]
    return bytes(data)


def fuzz(wholes: list[bytes], path: Path, read: Callable[[Path], object]) -> None:
    """Bend the files and read them, over and over, until the time is up."""

    @settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(wholes), st.lists(EDIT, min_size=1, max_size=4))
    def once(whole: bytes, edits: list[tuple[str, float, int]]) -> None:
        path.write_bytes(bent(whole, edits))
        try:
            read(path)
        except GraphLLMError as error:
            if "\n" in str(error):
                raise AssertionError(f"two lines: {error}") from error

    end, number = time.monotonic() + SECONDS, int(os.environ.get("GRAPHLLM_FUZZ_SEED", "0"))
    while True:
        seed(number)(once)()
        number += 1
        if time.monotonic() > end:
            return


def whole_checkpoint(path: Path) -> None:
    for source in open_checkpoint(path).tensors.values():
        source.read()


def test_flat_files(tmp_path: Path) -> None:
    tensors, wholes = random_tensors(FLAT, np.random.default_rng(0)), list[bytes]()
    for version in (0, 1, 2):
        write_llama2c(tmp_path / "w", FLAT, tensors, version)
        wholes.append((tmp_path / "w").read_bytes())
    write_kuiper(tmp_path / "w", FLAT, tensors, 8)
    fuzz([*wholes, (tmp_path / "w").read_bytes()], tmp_path / "m", whole_checkpoint)


def test_gguf(tmp_path: Path) -> None:
    fuzz([gguf_bytes(SAID, TENSORS), gguf_bytes(SAID | TOKENIZER, TENSORS)], tmp_path / "m", whole_checkpoint)


def test_torch(tmp_path: Path) -> None:
    config = FLAT
    tensors = meta_names(random_tensors(config, np.random.default_rng(0)))
    args = params(config, vocab_size=config.vocab, max_seq_len=16)
    wholes = [torch_bytes({"model": tensors, "model_args": args}, protocol) for protocol in (2, 4)]
    fuzz(wholes, tmp_path / "m", whole_checkpoint)


def test_hugging_face(tmp_path: Path) -> None:
    write_huggingface(tmp_path / "hf", LLAMA, random_tensors(LLAMA, np.random.default_rng(0)))
    weights, config = tmp_path / "hf" / "model.safetensors", tmp_path / "hf" / "config.json"
    kept = config.read_bytes()

    def read(path: Path) -> None:
        data = path.read_bytes()
        which = config if data[:1] == b"{" else weights
        config.write_bytes(kept)
        which.write_bytes(data)
        whole_checkpoint(tmp_path / "hf")

    fuzz([weights.read_bytes(), json.dumps(json.loads(kept)).encode()], tmp_path / "m", read)


def test_tokenizers(tmp_path: Path) -> None:
    said = {f"tokenizer.ggml.{key}": value for key, value in json.loads(document()).items()}
    wholes = [byte_level_file(), llama2c_file(), sentencepiece_model()]
    wholes += [file_of(synthetic(0, 9)), gguf_bytes(SAID | said, {})]

    def read(path: Path) -> None:
        data = find_tokenizer(path.parent, path)
        if data is not None:
            load_tokenizer(data, 1 << 20).encode("Once upon a time é")

    fuzz(wholes, tmp_path / "t", read)


def test_the_bender_bends() -> None:
    assert bent(b"abcdef", [("byte", 0.0, 255)]) == b"\xffbcdef"
    assert bent(b"abcdef", [("cut", 0.0, 2)]) == b"cdef"
    with pytest.raises(struct.error):
        bent(b"abcdef", [("u64", 0.0, 2**64)])
