"""Every reader of files under bytes that hypothesis bends: whatever comes out, it is read or it is one line.

    python -m tests.fuzz_readers gguf 60        # one, or some, or without a name all of them

They run side by side, since one after the other would take as many minutes as there are; each in a process of its own,
under limits on its memory and on the time of a file. GRAPHLLM_FUZZ_SEED makes them begin elsewhere.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, cast

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import graphllm
from graphllm.api.session import read_session
from graphllm.cli.panic_pages import without_panic_pages
from graphllm.errors import GraphLLMError
from graphllm.frontends.open import open_checkpoint
from graphllm.frontends.tokenizer_file import find_tokenizer
from graphllm.plan.plan_file import PlanFile
from graphllm.runtime.chat import renderer
from graphllm.runtime.chat.renderer import render
from graphllm.runtime.tokenizer import load_tokenizer
from tests.checkpoint_writers import random_tensors, write_huggingface, write_kuiper, write_llama2c
from tests.gguf_models import SAID, TENSORS, TOKENIZER
from tests.gguf_writer import gguf_bytes
from tests.made_tokenizers import byte_level_file, llama2c_file, sentencepiece_model
from tests.small_huggingface import LLAMA
from tests.small_plans import LOWERED, forged, small_plan
from tests.test_flat_file import CONFIG as FLAT
from tests.test_llama3_tokenizer import document, file_of, synthetic
from tests.test_meta import CONFIG as META
from tests.test_meta import meta_names, params, write_meta
from tests.torch_writer import torch_bytes

MEMORY = 4 << 30  # of address space, in which libraries alone take more than one
SECONDS = 20  # of processor time for a file
NUMBERS = st.sampled_from([0, 1, 2, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**64 - 1])
EDIT = st.one_of(
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("u32"), st.floats(0, 1), NUMBERS),
    st.tuples(st.just("u64"), st.floats(0, 1), NUMBERS),
    st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 64)),
    st.tuples(st.just("copy"), st.floats(0, 1), st.integers(1, 64)),
    st.tuples(st.just("value"), st.floats(0, 1), st.integers(0, 1000)),
)
HEAD = 3000  # most edits go where headers are
VALUES: list[object] = [None, True, -1, 0, 1, 2**31, 10**400, 1e308, float("nan"), "", "\0", "../x", [], [[]], {}]
VALUES.extend((["a", 1], {"a": {}}, "é" * 40, [None] * 40))

Edits: TypeAlias = list[tuple[str, float, int]]
Reader: TypeAlias = tuple[list[bytes], Callable[[bytes], object]]  # whole files, and what reads a bent one


def bent(whole: bytes, edits: Edits) -> bytes:
    """The file after some edits; ``value`` puts another value at a place of a JSON file."""
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
        elif kind == "value" and b"{" in data[:2]:
            start = data.index(b"{")
            data[start:] = with_value(bytes(data[start:]), int(where * 1000), VALUES[value % len(VALUES)])
    return bytes(data)


def with_value(data: bytes, which: int, value: object) -> bytes:
    """A JSON object with another value at one of its places, deep ones too; as it was where it is none."""
    try:
        held = json.loads(data)
    except (ValueError, RecursionError):
        return data
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [held]
    while waiting and len(places) < 2000:
        one = waiting.pop()
        keys = list(cast("dict[str, Any]", one)) if isinstance(one, dict) else range(len(one))
        places += [(one, key) for key in keys]
        waiting += [one[key] for key in keys if isinstance(one[key], dict | list)]
    if places:
        one, key = places[which % len(places)]
        one[key] = value
    return json.dumps(held).encode()


def whole_checkpoint(path: Path) -> None:
    for source in open_checkpoint(path).tensors.values():
        source.read()


def a_file(folder: Path, wholes: list[bytes]) -> Reader:
    def read(data: bytes) -> None:
        (folder / "m").write_bytes(data)
        whole_checkpoint(folder / "m")

    return wholes, read


def llama2c(folder: Path) -> Reader:
    tensors, wholes = random_tensors(FLAT, np.random.default_rng(0)), list[bytes]()
    for version in (0, 1, 2):
        write_llama2c(folder / "w", FLAT, tensors, version)
        wholes.append((folder / "w").read_bytes())
    return a_file(folder, wholes)


def kuiper(folder: Path) -> Reader:
    wholes: list[bytes] = []
    for config, group in ((FLAT, 8), (replace(FLAT, qkv_bias=True), 0)):
        write_kuiper(folder / "w", config, random_tensors(config, np.random.default_rng(0)), group)
        wholes.append((folder / "w").read_bytes())
    return a_file(folder, wholes)


def gguf(folder: Path) -> Reader:
    return a_file(folder, [gguf_bytes(SAID, TENSORS), gguf_bytes(SAID | TOKENIZER, TENSORS)])


def torch(folder: Path) -> Reader:
    tensors = meta_names(random_tensors(FLAT, np.random.default_rng(0)))
    value = {"model": tensors, "model_args": params(FLAT, vocab_size=FLAT.vocab, max_seq_len=16)}
    return a_file(folder, [torch_bytes(value, protocol) for protocol in (2, 4)])


def in_folder(folder: Path, names: list[str]) -> Reader:
    """Files of a folder, one bent at a time and the others whole. A byte in front says which."""
    kept = {name: (folder / name).read_bytes() for name in names}

    def read(data: bytes) -> None:
        name = names[data[0] % len(names)] if data else names[0]
        (folder / name).write_bytes(data[1:])
        try:
            whole_checkpoint(folder)
        finally:
            (folder / name).write_bytes(kept[name])

    return [bytes([i]) + kept[name] for i, name in enumerate(names)], read


def meta(folder: Path) -> Reader:
    write_meta(folder / "meta", META, random_tensors(META, np.random.default_rng(0)), 2)
    return in_folder(folder / "meta", ["params.json", "consolidated.00.pth", "consolidated.01.pth"])


def hugging_face(folder: Path) -> Reader:
    place = folder / "hf"
    write_huggingface(place, LLAMA, random_tensors(LLAMA, np.random.default_rng(0)), shards=2)
    (place / "generation_config.json").write_text('{"eos_token_id": [1, 2], "temperature": 0.5, "top_k": 4}')
    return in_folder(place, sorted(file.name for file in place.iterdir()))


def a_tokenizer(*wholes: bytes) -> Callable[[Path], Reader]:
    def reader(folder: Path) -> Reader:
        def read(data: bytes) -> None:
            (folder / "t").write_bytes(data)
            found = find_tokenizer(folder, folder / "t")
            if found is not None:
                load_tokenizer(found, 1 << 20).encode("Once upon a time é")

        return list(wholes), read

    return reader


def gguf_tokenizer(folder: Path) -> Reader:
    said = {f"tokenizer.ggml.{key}": value for key, value in json.loads(document()).items()}
    return a_tokenizer(gguf_bytes(SAID | said, {}))(folder)


def templates(folder: Path) -> Reader:
    from graphllm.runtime.chat.named import NAMES, template_named

    said = {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True}

    def read(data: bytes) -> None:
        render(data.decode("latin-1"), said, seconds=1.0)

    return [template_named(name).encode() for name in NAMES], read


def plans(folder: Path) -> Reader:
    """The text of lowered IR bent, with every digest in order."""
    whole = small_plan(folder, target="numpy")
    with PlanFile.open(whole) as plan:
        text = plan.sections[LOWERED]

    def read(data: bytes) -> None:
        forged(whole, folder / "m.gllm", texts={LOWERED: data.decode("utf-8", "replace")})
        graphllm.load(folder / "m.gllm", device="numpy").generate([1, 2], max_tokens=1)

    return [text.encode()], read


def containers(folder: Path) -> Reader:
    """A plan's own bytes bent."""
    whole = small_plan(folder).read_bytes()

    def read(data: bytes) -> None:
        (folder / "m.gllm").write_bytes(data)
        graphllm.load(folder / "m.gllm", device="numpy")

    return [whole], read


def sessions(folder: Path) -> Reader:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    held = {"format": "graphllm chat", "version": 1, "began": 1.5, "messages": messages, "variables": {"a": 1}}

    def read(data: bytes) -> None:
        (folder / "s").write_bytes(data)
        read_session(folder / "s")

    return [json.dumps(held).encode()], read


READERS: dict[str, Callable[[Path], Reader]] = {
    "llama2c": llama2c,
    "kuiper": kuiper,
    "gguf": gguf,
    "torch": torch,
    "meta": meta,
    "hugging-face": hugging_face,
    "tokenizer.json": a_tokenizer(byte_level_file()),
    "tokenizer.bin": a_tokenizer(llama2c_file()),
    "sentencepiece": a_tokenizer(sentencepiece_model()),
    "tiktoken": a_tokenizer(file_of(synthetic(0, 9))),
    "gguf-tokenizer": gguf_tokenizer,
    "templates": templates,
    "plans": plans,
    "containers": containers,
    "sessions": sessions,
}


def fuzz(reader: Reader, seconds: float) -> int:
    """Bend the files and read them, over and over, until the time is up; how many there were."""
    wholes, read = reader
    count = 0

    @settings(max_examples=25, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(wholes), st.lists(EDIT, min_size=1, max_size=4))
    def once(whole: bytes, edits: Edits) -> None:
        nonlocal count
        count += 1
        with_a_clock(SECONDS)
        try:
            read(bent(whole, edits))
        except GraphLLMError as error:
            if "\n" in str(error):
                raise AssertionError(f"two lines: {error}") from error
        with_a_clock(0)

    end, number = time.monotonic() + seconds, int(os.environ.get("GRAPHLLM_FUZZ_SEED", "0"))
    while time.monotonic() < end:
        seed(number)(once)()
        number += 1
    return count


def with_a_clock(seconds: float) -> None:
    """After so much processor time the process is ended; 0: no longer."""
    import signal

    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)


def side_by_side(names: Sequence[str], seconds: float) -> dict[str, str]:
    """What each reader's own process said: how many files, or what went wrong."""
    said: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        running: dict[int, Path] = {}
        for name in names:
            out = Path(folder) / f"{name}.txt"
            child = os.fork()  # what is imported here need not be imported again
            if child == 0:
                file = os.open(out, os.O_WRONLY | os.O_CREAT, 0o600)
                os.dup2(file, 1)
                os.dup2(file, 2)
                _exit_after(name, Path(folder) / name, seconds)
            running[child] = out
        for child, out in running.items():
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            said[out.stem] = out.read_text("utf-8", "replace") + (f"ended with {code}" if code else "")
    return said


def _exit_after(name: str, folder: Path, seconds: float) -> NoReturn:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.nice(10)  # other tests do not wait for this one
    code = 1
    try:
        folder.mkdir()
        with without_panic_pages():
            os.write(1, f"{fuzz(READERS[name](folder), seconds)} files".encode())
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        renderer._process.close()  # pyright: ignore[reportPrivateUsage]  # as at exit, which this is not
        os._exit(code)


def main() -> None:
    *names, seconds = sys.argv[1:]
    print(json.dumps(side_by_side(names or list(READERS), float(seconds)), indent=1))


if __name__ == "__main__":
    main()
