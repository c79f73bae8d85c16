"""Sizes that other programs stumble over: prompts of more than 512 tokens, files of more than 4 GiB."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphllm
from graphllm.frontends.open import open_checkpoint
from tests.checkpoint_writers import write_huggingface
from tests.cpu_models import quick_builds
from tests.model_zoo import random_tensors
from tests.small_plans import SMALL

__all__ = ["quick_builds"]


@pytest.mark.parametrize("target", ["numpy", "cpu"])
def test_a_prompt_beyond_512_tokens_is_what_its_tokens_are_one_by_one(
    tmp_path: Path, target: Any, request: pytest.FixtureRequest
) -> None:
    if target == "cpu":
        request.getfixturevalue("quick_builds")
    config = replace(SMALL, context=640)
    write_huggingface(tmp_path / "hf", config, random_tensors(config, 1))
    plan = graphllm.compile(tmp_path / "hf", tmp_path / "m.gllm", target=target, kv_dtype="f32").path
    model = graphllm.load(plan, device=target)
    ids = np.random.default_rng(0).integers(0, config.vocab, 601).tolist()
    at_once = np.array(model.engine.feed(ids))
    model.engine.truncate(0)
    one_by_one = [np.array(model.engine.step(token)) for token in ids]
    np.testing.assert_allclose(at_once, one_by_one[-1], atol=1e-4)
    np.testing.assert_allclose(model.logits(ids), one_by_one, atol=1e-4)


def test_a_file_of_27_gigabytes_is_read_where_its_tensors_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama2.c's v0 of Llama-2-7B, a hole but for a row near the end; a config.json lying about is not its."""
    d, f, layers, heads, vocab, context = 4096, 11008, 32, 32, 32000, 2048
    size = 26_954_711_068
    path = tmp_path / "7b.bin"
    with path.open("wb") as file:
        file.write(struct.pack("<7i", d, f, layers, heads, heads, -vocab, context))
        try:
            os.truncate(path, size)
        except OSError:
            pytest.skip("no room for holes on this file system")
        file.seek(size - 4 * d)
        file.write(np.arange(d, dtype="<f4").tobytes())
    (tmp_path / "config.json").write_text('{"hidden_size": 1}')
    monkeypatch.chdir(tmp_path)
    checkpoint = open_checkpoint("7b.bin")
    assert (checkpoint.config.dim, checkpoint.config.tied) == (d, False)
    np.testing.assert_array_equal(checkpoint.tensors["lm_head"].rows(vocab - 1, vocab)[0], np.arange(d))
    assert not checkpoint.tensors["lm_head"].rows(vocab - 2, vocab - 1).any()
