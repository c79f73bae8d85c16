"""A tokenizer's file is found beside its checkpoint, told by its content, and brings its settings along."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from graphllm.errors import TokenizerError
from graphllm.frontends.tokenizer_file import MAX_BYTES, find_tokenizer
from graphllm.plan.tokenizer_data import TokenizerData
from tests.made_tokenizers import byte_level_file, llama2c_file, sentencepiece_model


def test_found_beside_the_checkpoint_and_told_by_content(tmp_path: Path) -> None:
    checkpoint = tmp_path / "model.bin"
    checkpoint.write_bytes(b"weights")
    assert find_tokenizer(checkpoint, None) is None
    assert find_tokenizer(tmp_path, None) is None
    (tmp_path / "tokenizer.bin").write_bytes(sentencepiece_model())  # names lie
    for place in (checkpoint, tmp_path):
        data = find_tokenizer(place, None)
        assert data == TokenizerData("sentencepiece", sentencepiece_model())
    (tmp_path / "tokenizer.model").write_bytes(llama2c_file())
    assert find_tokenizer(checkpoint, None) == TokenizerData("llama2.c", llama2c_file())
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file())
    assert find_tokenizer(checkpoint, None) == TokenizerData("tokenizer.json", byte_level_file())
    other = tmp_path / "any.name"
    other.write_bytes(llama2c_file())
    assert find_tokenizer(checkpoint, other) == TokenizerData("llama2.c", llama2c_file())
    assert find_tokenizer(checkpoint, tmp_path) == TokenizerData("tokenizer.json", byte_level_file())


def test_config_and_chat_template_come_along(tmp_path: Path) -> None:
    file, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    file.write_bytes(byte_level_file())
    text = json.dumps({"eos_token": "<|im_end|>", "chat_template": "{{ x }}é"})
    config.write_text(text, "utf-8")
    special = {"eos_token": "<|im_end|>"}
    expected = TokenizerData("tokenizer.json", byte_level_file(), text, "{{ x }}é", {}, special)
    assert find_tokenizer(file, None) == expected
    named = [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}, {"name": 1}, "x"]
    config.write_text(json.dumps({"chat_template": named}))
    data = find_tokenizer(tmp_path, None)
    assert data is not None
    assert (data.chat_template, data.other_templates) == ("d", {"rag": "r"})
    (tmp_path / "chat_template.jinja").write_text("own file", "utf-8")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools", "utf-8")
    data = find_tokenizer(tmp_path, None)
    assert data is not None
    assert (data.chat_template, data.other_templates) == ("own file", {"rag": "r", "tool_use": "tools"})
    config.write_text(json.dumps({"chat_template": "a" * 1_000_001}))
    with pytest.raises(TokenizerError, match="at most 1000000 characters, got 1000001"):
        find_tokenizer(tmp_path, None)
    for bad in (b"{", b"[]", b"\xff{}", b'{"chat_template": "\\ud800"}'):
        config.write_bytes(bad)
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)
        with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
            find_tokenizer(tmp_path, None)


def test_special_tokens_are_as_templates_call_them(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(byte_level_file())
    written = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None, "x": "y"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**written, "sep_token": "\ud800", "add_bos_token": True})
    )
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "other", "unk_token": "<unk>"}))
    data = find_tokenizer(tmp_path, None)
    assert data is not None
    assert data.special_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "special_tokens_map.json").write_text("[]")
    with pytest.raises(TokenizerError, match=r"special_tokens_map\.json: expected a JSON object, got list"):
        find_tokenizer(tmp_path, None)


def test_what_is_not_a_tokenizer(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(TokenizerError, match=message) as caught:
            find_tokenizer(tmp_path, path)
        assert "\n" not in str(caught.value)

    refused(tmp_path, "no tokenizer in this folder")
    refused(tmp_path / "nowhere", "No such file")
    refused(tmp_path / "nul\0", "null")
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    refused(empty, "empty file")
    for content in (b"x", b"\x89PNG\r\n\x1a\n" + bytes(90), b"hello world, this is text\n", bytes(3)):
        (tmp_path / "other").write_bytes(content)
        refused(tmp_path / "other", "not a tokenizer")
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: no disk is used
    refused(huge, "too large")
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "not a regular file")
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(TokenizerError, match="a folder"):
        find_tokenizer(tmp_path, None)
    (tmp_path / "tokenizer.json").rmdir()
    (tmp_path / "tokenizer.json").symlink_to(tmp_path / "gone")
    with pytest.raises(TokenizerError, match="No such file"):
        find_tokenizer(tmp_path, None)
    if os.geteuid() != 0:
        empty.chmod(0)
        refused(empty, "denied")
