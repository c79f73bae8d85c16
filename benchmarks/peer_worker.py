"""One engine in a process of its own, so that its threads sleep while another is measured.

    python peer_worker.py ENGINE PATH THREADS

Reads lines ``decode N``, ``prefill N``, ``generate N`` or ``read N`` and answers each with a rate in JSON: tokens a
second, or bytes a second for ``read``. The first line of output says that the engine is warm, or why it cannot run.
"""

# pyright: basic

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

PROMPT = range(1, 9)  # in the cache before decoding


class Engine(Protocol):
    """One sequence in the cache of one loaded model."""

    def clear(self) -> None: ...
    def feed(self, ids: Sequence[int]) -> None:
        """Append tokens, and compute the logits of the last."""
        ...


class GraphLLM:
    def __init__(self, path: str, threads: int) -> None:
        import graphllm

        self.model = graphllm.load(path, device="cpu", threads=threads)
        self.engine = self.model.engine

    def clear(self) -> None:
        self.engine.truncate(0)

    def feed(self, ids: Sequence[int]) -> None:
        if len(ids) == 1:
            self.engine.step(ids[0])
        else:
            self.engine.feed(ids)

    def generate(self, tokens: int) -> int:
        return len(self.model.generate("", max_tokens=tokens).tokens)


class LlamaCpp:
    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp
        from peer_inputs import CONTEXT

        self.lib: Any = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model: Any = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        settings: Any = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT, 512, 512
        settings.n_threads = settings.n_threads_batch = threads
        self.context: Any = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError("llama.cpp refuses the model")

    def clear(self) -> None:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), False)

    def feed(self, ids: Sequence[int]) -> None:
        tokens = (self.lib.llama_token * len(ids))(*ids)
        status = self.lib.llama_decode(self.context, self.lib.llama_batch_get_one(tokens, len(ids)))
        if status:
            raise RuntimeError(f"llama_decode: {status}")
        self.lib.llama_get_logits(self.context)  # waits for them


class CTranslate2:
    """Prompts only: its Python API takes no single step."""

    def __init__(self, path: str, threads: int) -> None:
        import ctranslate2

        self.generator = ctranslate2.Generator(path, compute_type="int8", inter_threads=1, intra_threads=threads)

    def clear(self) -> None:
        pass

    def feed(self, ids: Sequence[int]) -> None:
        # all but the last token in one pass, the last in a step that ends in logits
        prompt = [f"t{i}" for i in ids]
        self.generator.generate_batch([prompt], max_length=1, include_prompt_in_result=False)


class StreamingRead:
    """Reads of one buffer, far larger than any cache, by one thread, in the order that is faster on this machine."""

    BYTES = 2 << 30

    def __init__(self, path: str, threads: int) -> None:
        assert threads == 1
        self.lib = ctypes.CDLL(path)
        self.lib.make_buffer.restype = ctypes.c_void_p
        self.lib.make_buffer.argtypes = [ctypes.c_size_t]
        self.orders = (self.lib.read_in_order, self.lib.read_in_rows)
        for read in self.orders:
            read.argtypes, read.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_uint64
        self.buffer = self.lib.make_buffer(self.BYTES)
        if not self.buffer:
            raise MemoryError("no 2 GiB for the streaming read")

    def read(self, times: int) -> float:
        def rate(order: Callable[[int, int], int]) -> float:
            start = time.perf_counter()
            for _ in range(times):
                order(self.buffer, self.BYTES)
            return times * self.BYTES / (time.perf_counter() - start)

        return max(map(rate, self.orders))


ENGINES: dict[str, Any] = {
    "graphllm": GraphLLM,
    "llama.cpp": LlamaCpp,
    "CTranslate2": CTranslate2,
    "streaming read": StreamingRead,
}


def prefill(engine: Engine, tokens: int) -> float:
    ids = range(1, tokens + 1)
    engine.clear()
    start = time.perf_counter()
    engine.feed(ids)
    return tokens / (time.perf_counter() - start)


def decode(engine: Engine, tokens: int) -> float:
    engine.clear()
    engine.feed(PROMPT)
    start = time.perf_counter()
    for i in range(tokens):
        engine.feed([100 + i])
    return tokens / (time.perf_counter() - start)


def generate(engine: GraphLLM, tokens: int) -> float:
    start = time.perf_counter()
    made = engine.generate(tokens)
    return made / (time.perf_counter() - start)


def main() -> None:
    # our answers have the pipe for themselves, whatever a library prints
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**what: object) -> None:
        print(json.dumps(what), file=answers, flush=True)

    name, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    try:
        engine = ENGINES[name](path, threads)
    except Exception as error:
        missing = isinstance(error, ImportError) and error.name
        answer(error=f"{missing} is not installed" if missing else f"{type(error).__name__}: {error}")
        return
    answer(ready=True)
    measures = {"prefill": prefill, "decode": decode, "generate": generate, "read": StreamingRead.read}
    for line in sys.stdin:
        what, count = line.split()
        answer(rate=measures[what](engine, int(count)))


if __name__ == "__main__":
    main()
