"""A hundred hostile files and more, each opened as a user would: one line, in seconds, in little memory, nothing run.

All are opened in one process under a limit on its memory and with a clock for each file. The cases are those of the
readers' own tests, and some that belong to none of them.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

from tests import hostile_folders
from tests.checkpoint_writers import random_tensors, write_huggingface, write_llama2c, write_safetensors
from tests.gguf_models import SAID, TENSORS
from tests.gguf_writer import gguf_bytes
from tests.small_huggingface import LLAMA, change
from tests.test_flat_file import CONFIG as FLAT
from tests.test_gguf_faults import WRONG as GGUF
from tests.test_llama3_tokenizer import BAD as TIKTOKEN
from tests.test_llama3_tokenizer import WRONG as VOCABULARIES
from tests.test_meta import WRONG as META
from tests.test_meta import write_meta
from tests.test_torch_file import BOMBS, Evaluated, Evil
from tests.torch_writer import zip_bytes

MEMORY = 3 << 30  # of address space, in which libraries alone take more than one
SECONDS = 20  # of processor time for a file; a machine under load is no reason to fail

RUNNER = """
import json, resource, signal, sys
from pathlib import Path
import numpy, tokenizers, sentencepiece, ml_dtypes
from graphllm.cli.panic_pages import without_panic_pages
from graphllm.compiler.compile import tokenizer_for
from graphllm.errors import GraphLLMError
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.runtime.tokenizer import load_tokenizer

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
def late(*_): raise TimeoutError("too long")
signal.signal(signal.SIGVTALRM, late)
def opened(path):
    if path.name.startswith("tokenizer"):
        load_tokenizer(find_tokenizer(path.parent, path), 400).encode("a" * 30 + "!")
    else:
        checkpoint = open_checkpoint(path)
        tokenizer_for(path, None, checkpoint)
        for source in checkpoint.tensors.values():
            source.read()
for path in sorted(Path(sys.argv[1]).iterdir()):
    signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[3]))
    try:
        with without_panic_pages():
            opened(path)
        said = "opened"
    except GraphLLMError as error:
        said = "refused: " + str(error)
    except BaseException as error:
        said = "FAILED: " + repr(error)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps([path.name, said]))
"""


def make(folder: Path) -> int:
    """Write the set; how many."""
    files: dict[str, bytes] = {f"gguf {name}": content for name, (content, _) in GGUF.items()}
    files |= {f"pickle {name}": zip_bytes({"data.pkl": content}) for name, (content, _) in BOMBS.items()}
    files |= {f"tokenizer tiktoken {name}": b"IQ== 0\n" + content for name, (content, _) in TIKTOKEN.items()}
    for name, evil in (("system", Evil()), ("eval", Evaluated())):
        files[f"evil {name}"] = zip_bytes({"data.pkl": pickle.dumps({"model": evil, "model_args": {}})})
        files[f"evil old {name}"] = bytes.fromhex("80028a0a6cfc9c46f9206aa85019") + pickle.dumps(evil)
    for name, (blob, _) in VOCABULARIES.items():
        try:
            said = {f"tokenizer.ggml.{key}": value for key, value in json.loads(blob).items() if value}
            files[f"tokenizer gguf {name}"] = gguf_bytes(SAID | said, {})
        except (ValueError, TypeError, AttributeError, RecursionError, struct.error):
            continue  # what no GGUF file can say
    bomb = zip_bytes({"data.pkl": bytes(1 << 26)}, compression=zipfile.ZIP_DEFLATED)
    files |= {"zip bomb": bomb, "zip cut": bomb[:5000], "zeros": bytes(5000), "text": b"hello " * 1000}
    files["tokenizer json deep"] = b"{" + b'"a":{' * 100_000
    files["tokenizer json"] = b'{"model": {"type": "BPE", "vocab": {}, "merges": [["a","b"]]}}'
    files["tokenizer spm"] = b"\x0a\xff\x0a" + b"\xff" * 3000
    files["tokenizer bin"] = struct.pack("<IfI", 2**31, 0.0, 5) + b"hello" * 100
    for i, sizes in enumerate(([2**31 - 1] * 7, [64, 64, 4096, 1, 1, 2**31 - 1, 2**31 - 1], [-1] * 7)):
        files[f"flat sizes {i}"] = struct.pack("<7i", *sizes) + bytes(1000)
    for name, content in files.items():
        (folder / name.replace("/", "-")).write_bytes(content)
    count = len(files)
    tensors = random_tensors(FLAT, np.random.default_rng(0))
    write_llama2c(folder / "flat cut", FLAT, tensors)
    os.truncate(folder / "flat cut", 3000)
    for name, (damage, _) in META.items():
        place = folder / f"meta {name}"
        from tests.test_meta import CONFIG

        write_meta(place, CONFIG, random_tensors(CONFIG, np.random.default_rng(0)), 2)
        damage(place)
    hostile = {
        "path": {"weight_map": {"model.norm.weight": "../../../etc/passwd"}},
        "path nul": {"weight_map": {"model.norm.weight": "a\0b"}},
        "path list": {"weight_map": {"model.norm.weight": ["a"]}},
    }
    for name, index in hostile.items():
        place = folder / f"hf {name}"
        write_huggingface(place, LLAMA, random_tensors(LLAMA, np.random.default_rng(0)))
        (place / "model.safetensors").unlink()
        (place / "model.safetensors.index.json").write_text(json.dumps(index))
    for name, keys in (("layers", {"num_hidden_layers": 10**9}), ("nan", {"rms_norm_eps": float("nan")})):
        place = folder / f"hf {name}"
        write_huggingface(place, LLAMA, random_tensors(LLAMA, np.random.default_rng(0)))
        change(place, "config.json", **keys)
    place = folder / "hf header"
    write_huggingface(place, LLAMA, random_tensors(LLAMA, np.random.default_rng(0)))
    write_safetensors(
        place / "model.safetensors", {"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}
    )
    assert TENSORS
    return count + 1 + len(META) + len(hostile) + 3 + hostile_folders.write(folder)


def test_hostile_files_end_in_one_line(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    count = make(files)
    assert count >= 190
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, files, str(MEMORY), str(SECONDS)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # not even what a library prints when it panics
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == count
    wrong = [(name, said) for name, said in answers if not said.startswith("refused: ") or "\n" in said]
    assert wrong == []
    assert os.listdir(tmp_path) == ["files"]  # nothing was run
