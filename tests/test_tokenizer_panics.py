"""Where the tokenizers library panics, its Rust runtime writes a page to standard error, which is the program's.

The package turns a panic into an error and leaves the stream alone; the command line shows the error's line alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphllm.cli import main
from graphllm.cli.panic_pages import without_panic_pages
from graphllm.errors import TokenizerError
from graphllm.plan.tokenizer_data import TokenizerData
from graphllm.runtime.tokenizer import Tokenizer, load_tokenizer, panics
from tests.checkpoint_writers import random_tensors, write_huggingface
from tests.hostile_folders import TOKENIZERS
from tests.made_tokenizers import byte_level_file
from tests.model_zoo import ZOO

PANICS = "a" * 40 + "!"
PAGE = "panicked at"


def endless_file() -> bytes:
    """A tokenizer.json with a regular expression that the library gives up on."""
    return json.dumps(json.loads(byte_level_file()) | TOKENIZERS["regex that takes forever"]).encode()


@pytest.fixture
def endless() -> Tokenizer:
    return load_tokenizer(TokenizerData("tokenizer.json", endless_file()), 512)


def refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TokenizerError, match=r"^tokenizer\.json: cannot encode this text; [^\n]+$"):
        tokenizer.encode(PANICS)


def test_the_package_leaves_the_stream_alone(endless: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    refused(endless)
    assert PAGE in capfd.readouterr().err  # it went where it always goes


def test_a_command_shows_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = ZOO["odd_sizes"]
    write_huggingface(tmp_path / "hf", config, random_tensors(config, np.random.default_rng(0)))
    (tmp_path / "hf" / "tokenizer.json").write_bytes(endless_file())
    assert main(["run", str(tmp_path / "hf"), "-p", PANICS]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("graphllm: tokenizer.json: cannot encode this text; ")
    assert err.count("\n") == 1
    refused(load_tokenizer(TokenizerData("tokenizer.json", endless_file()), 512))
    assert PAGE in capfd.readouterr().err  # the command is over


def test_whatever_else_is_written_comes_through(endless: Tokenizer, capfd: pytest.CaptureFixture[str]) -> None:
    lines = b"another thread\n" * 20_000

    def call(*, then: type[BaseException] | None = None) -> None:
        with panics.around():
            os.write(2, lines)
            if then is not None:
                raise then

    def panic(library: Any) -> None:
        with panics.library_errors("here", "said"):
            os.write(2, lines)
            library.encode(PANICS)

    with without_panic_pages():
        call()
        assert capfd.readouterr().err == lines.decode()
        with pytest.raises(KeyboardInterrupt):
            call(then=KeyboardInterrupt)
        assert capfd.readouterr().err == lines.decode()
        with pytest.raises(TokenizerError):
            panic(vars(endless)["_library"])
        assert capfd.readouterr().err == lines.decode()
