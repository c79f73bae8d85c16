"""Speed on a CPU beside llama.cpp, CTranslate2 and llama2.c: interleaved in one run, as ratios of one round.

    pip install -r benchmarks/requirements.txt      (its first lines say how to build llama.cpp for this machine)
    python benchmarks/peers.py --work DIR [--models M,…] [--rows R,…] [--rounds 6] [--threads 2] [--llama2c RUN]

Shapes are true, weights random and the same for all: each peer's file is made from our checkpoint. In a round every
contestant of a row takes its turn; a figure is the median over rounds of (ours / theirs), because the speed of shared
machines drifts by more than what is measured. The share of bandwidth is what one thread of ours moves, over what a
plain loop reads in the same round. A peer that is not there is left out, with the reason.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import platform
import re
import statistics
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from make_checkpoint import SHAPES, make_checkpoint
from numpy.typing import NDArray

import graphllm
from graphllm.compiler.native.toolchain import compiler_command
from graphllm.frontends.checkpoint import Checkpoint
from graphllm.frontends.open import open_checkpoint

MODELS = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")
ROWS = ("int8", "bf16", "f32")
PROMPT, ANSWER, CONTEXT = 512, 24, 1024
GGUF_NAMES = {
    "tok_emb": "token_embd.weight",
    "norm": "output_norm.weight",
    "lm_head": "output.weight",
    "att_norm": "attn_norm.weight",
    "wq": "attn_q.weight",
    "wk": "attn_k.weight",
    "wv": "attn_v.weight",
    "wo": "attn_output.weight",
    "bq": "attn_q.bias",
    "bk": "attn_k.bias",
    "bv": "attn_v.bias",
    "ffn_norm": "ffn_norm.weight",
    "w_gate": "ffn_gate.weight",
    "w_up": "ffn_up.weight",
    "w_down": "ffn_down.weight",
}

Array = NDArray[Any]
Work = Callable[[], float]  # does one measurement; tokens a second


class Skip(Exception):
    """A peer cannot take part; the message says why."""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# Ours


class Ours:
    """A plan on the cpu target with a number of threads."""

    def __init__(self, plan: Path, threads: int) -> None:
        self.model = graphllm.load(plan, device="cpu", threads=threads, verify="none")
        self.engine = self.model.engine
        self.bytes = self.model.engine.device.memory.mapped
        self.prefill()

    def decode(self) -> float:
        """Greedy, in a short context, the choice of the token included."""
        self.engine.truncate(0)
        token = int(np.argmax(self.engine.feed(range(1, 17))))

        def answer() -> None:
            nonlocal token
            for _ in range(ANSWER):
                token = int(np.argmax(self.engine.step(token)))

        return ANSWER / seconds(answer)

    def prefill(self) -> float:
        self.engine.truncate(0)
        return PROMPT / seconds(lambda: self.engine.feed(range(1, PROMPT + 1)))


def plan_of(checkpoint: Path, kind: str, work: Path) -> Path:
    """The plan of a storage kind, made where it is not there yet."""
    plan = work / f"{checkpoint.name}-{kind}.gllm"
    if not plan.exists():
        choices: dict[str, Any] = {"quantize": kind} if kind.startswith("int8") else {"dtype": kind}
        graphllm.compile(checkpoint, plan, target="cpu", context=CONTEXT, **choices).file.close()
    return plan


# llama.cpp


def write_gguf(checkpoint: Checkpoint, path: Path, kind: str) -> None:
    """The checkpoint in llama.cpp's format, norms and biases in f32, without a vocabulary."""
    import gguf

    c = checkpoint.config
    architecture = "qwen2" if c.qkv_bias else "llama"
    stored = getattr(gguf.GGMLQuantizationType, {"int8": "Q8_0", "bf16": "BF16", "f32": "F32"}[kind])
    writer = gguf.GGUFWriter(path, architecture, use_temp_file=True)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.dim)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.ffn_dim)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_vocab_size(c.vocab)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in checkpoint.tensors.items():
        layer, _, part = name.rpartition(".")
        to = f"blk.{layer[1:]}.{GGUF_NAMES[part]}" if layer else GGUF_NAMES[part]
        array = np.ascontiguousarray(tensor.read().astype(np.float32))
        if array.ndim == 2 and kind != "f32":
            writer.add_tensor(to, gguf.quants.quantize(array, stored), raw_dtype=stored)
        else:
            writer.add_tensor(to, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """llama.cpp through its C interface: 16-bit cache, flash attention as it chooses."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp as c

        self.c = c
        self.silent = c.llama_log_callback(lambda level, text, data: None)  # held as long as it may be called
        c.llama_log_set(self.silent, ctypes.c_void_p(0))
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(str(path).encode(), c.llama_model_default_params())
        p = c.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_threads, p.n_threads_batch = CONTEXT, PROMPT, PROMPT, threads, threads
        self.context = c.llama_init_from_model(self.model, p)
        if not self.context:
            raise Skip("llama.cpp could not load the model")
        self.vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))
        self.prefill()

    def close(self) -> None:
        self.c.llama_free(self.context)
        self.c.llama_model_free(self.model)

    def feed(self, ids: list[int]) -> int:
        """The most likely token after ``ids``."""
        tokens = (self.c.llama_token * len(ids))(*ids)
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(tokens, len(ids))):
            raise RuntimeError("llama_decode failed")
        logits = self.c.llama_get_logits_ith(self.context, -1)
        return int(np.argmax(np.ctypeslib.as_array(logits, shape=(self.vocab,))))

    def forget(self) -> None:
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)

    def decode(self) -> float:
        self.forget()
        token = self.feed(list(range(1, 17)))

        def answer() -> None:
            nonlocal token
            for _ in range(ANSWER):
                token = self.feed([token])

        return ANSWER / seconds(answer)

    def prefill(self) -> float:
        self.forget()
        return PROMPT / seconds(lambda: self.feed(list(range(1, PROMPT + 1))))


@contextmanager
def llama_cpp(checkpoint: Path, kind: str, work: Path, threads: int) -> Iterator[LlamaCpp]:
    for module in ("llama_cpp", "gguf"):
        if importlib.util.find_spec(module) is None:
            raise Skip(f"{module} is not installed")
    path = work / f"{checkpoint.name}-{kind}.gguf"
    if not path.exists():
        write_gguf(open_checkpoint(checkpoint), path, kind)
    peer = LlamaCpp(path, threads)
    yield peer
    peer.close()


# CTranslate2


class CTranslate2:
    """CTranslate2 with int8 weights and activations; a prompt and one token is its prefill."""

    def __init__(self, folder: Path, threads: int) -> None:
        import ctranslate2

        self.generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type="int8", intra_threads=threads, inter_threads=1
        )
        self.prefill()

    def prefill(self) -> float:
        prompt = [[f"t{i}" for i in range(3, PROMPT + 3)]]
        return PROMPT / seconds(
            lambda: self.generator.generate_batch(prompt, max_length=1, include_prompt_in_result=False)
        )


def write_ctranslate2(checkpoint: Checkpoint, folder: Path) -> None:
    import ctranslate2
    from ctranslate2.specs import common_spec, transformer_spec

    c = checkpoint.config

    def read(name: str) -> Array:
        return checkpoint.tensors[name].read().astype(np.float32)

    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        c.layers,
        c.heads,
        activation=common_spec.Activation.SWISH,
        pre_norm=True,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=False,
        rotary_base=c.rope_theta,
        num_heads_kv=c.kv_heads,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = read("tok_emb")
    decoder.projection.weight = read("tok_emb" if c.tied else "lm_head")
    decoder.layer_norm.gamma = read("norm")
    for i, layer in enumerate(decoder.layer):
        attention, ffn = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = read(f"l{i}.att_norm")
        attention.linear[0].weight = np.concatenate([read(f"l{i}.{w}") for w in ("wq", "wk", "wv")])
        if c.qkv_bias:
            attention.linear[0].bias = np.concatenate([read(f"l{i}.{b}") for b in ("bq", "bk", "bv")])
        attention.linear[1].weight = read(f"l{i}.wo")
        ffn.layer_norm.gamma = read(f"l{i}.ffn_norm")
        ffn.linear_0.weight, ffn.linear_0_noact.weight = read(f"l{i}.w_gate"), read(f"l{i}.w_up")
        ffn.linear_1.weight = read(f"l{i}.w_down")
    spec.register_vocabulary(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, c.vocab))])
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
    spec.config.layer_norm_epsilon = c.norm_eps
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir()
    spec.save(str(folder))
    assert ctranslate2.contains_model(str(folder))


@contextmanager
def ctranslate2_int8(checkpoint: Path, work: Path, threads: int) -> Iterator[CTranslate2]:
    if importlib.util.find_spec("ctranslate2") is None:
        raise Skip("ctranslate2 is not installed")
    folder = work / f"{checkpoint.name}-ctranslate2"
    if not folder.exists():
        write_ctranslate2(open_checkpoint(checkpoint), folder)
    yield CTranslate2(folder, threads)


# llama2.c


def write_v0(checkpoint: Checkpoint, path: Path) -> None:
    """llama2.c's first format: seven sizes and every tensor in f32, a kind at a time over all layers."""
    c, names = checkpoint.config, checkpoint.tensors
    per_layer = ("att_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w_gate", "w_down", "w_up")
    order = ["tok_emb", *(f"l{i}.{part}" for part in per_layer for i in range(c.layers)), "norm"]
    with path.open("wb") as file:
        vocab = c.vocab if c.tied else -c.vocab
        file.write(struct.pack("<7i", c.dim, c.ffn_dim, c.layers, c.heads, c.kv_heads, vocab, CONTEXT))
        for name in order:
            file.write(np.ascontiguousarray(names[name].read().astype(np.float32)).tobytes())
        file.write(bytes(4 * CONTEXT * c.head_dim))  # rotations, which run.c computes by itself
        if not c.tied:
            file.write(names["lm_head"].read().astype(np.float32).tobytes())


class Llama2c:
    """llama2.c's ``run``: a program, which tells its own speed."""

    def __init__(self, program: Path, checkpoint: Path, tokenizer: Path, tokens: int, threads: int) -> None:
        self.command = [str(program), str(checkpoint), "-z", str(tokenizer), "-t", "0", "-n", str(tokens)]
        self.environment = {"OMP_NUM_THREADS": str(threads)}
        self.decode()

    def decode(self) -> float:
        done = subprocess.run(self.command, capture_output=True, text=True, check=True, env=self.environment)
        found = re.search(r"tok/s: ([\d.]+)", done.stderr)
        if found is None:
            raise Skip("run told no speed")
        return float(found[1])


@contextmanager
def llama2c(program: Path | None, checkpoint: Path, work: Path, threads: int) -> Iterator[Llama2c]:
    if program is None:
        raise Skip("--llama2c does not name its run")
    opened = open_checkpoint(checkpoint)
    if opened.config.qkv_bias or opened.config.head_dim * opened.config.heads != opened.config.dim:
        raise Skip("its format has no such model")
    path, tokenizer = work / f"{checkpoint.name}.bin", work / f"{checkpoint.name}-tokenizer.bin"
    if not path.exists():
        write_v0(opened, path)
        pieces = (f"t{i}".encode() for i in range(opened.config.vocab))
        tokenizer.write_bytes(struct.pack("<i", 8) + b"".join(struct.pack("<fi", 0, len(p)) + p for p in pieces))
    yield Llama2c(program, path, tokenizer, ANSWER + 8, threads)


# The machine


READ = """
#include <stdint.h>
long read_all(const int64_t* p, long n) {
    int64_t s[32] = {0};
    for (long i = 0; i + 32 <= n; i += 32)
        for (int j = 0; j < 32; ++j) s[j] += p[i + j];
    long t = 0;
    for (int j = 0; j < 32; ++j) t += s[j];
    return t;
}
"""


def bandwidth(work: Path) -> Work:
    """Bytes a second that one thread reads, by a plain loop over a gigabyte."""
    command = compiler_command()
    if command is None:
        raise Skip("no C++ compiler")
    source, library = work / "read.c", work / "read.so"
    source.write_text(READ)
    flags = ["-x", "c", "-O3", "-march=native", "-shared", "-fPIC"]
    subprocess.run([*command, *flags, str(source), "-o", str(library)], check=True)
    read_all = ctypes.CDLL(str(library)).read_all
    buffer = np.ones(1 << 27, np.int64)
    pointer = buffer.ctypes.data_as(ctypes.c_void_p)

    def once() -> float:
        assert buffer.size  # held as long as its address is
        return buffer.nbytes / statistics.median(
            seconds(lambda: read_all(pointer, ctypes.c_long(buffer.size))) for _ in range(3)
        )

    return once


# Rounds


def rounds_of(works: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Every work once a round, in an order that turns."""
    out: dict[str, list[float]] = {name: [] for name in works}
    names = list(works)
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            out[name].append(works[name]())
    return out


def row(model: str, kind: str, a: argparse.Namespace) -> list[dict[str, Any]]:
    """The comparisons of one model in one precision."""
    work: Path = a.work
    checkpoint = work / model
    if not checkpoint.exists():
        make_checkpoint(SHAPES[model], checkpoint, "bf16")
    kinds = ("int8", "int8-dynamic") if kind == "int8" else (kind,)
    peer = {"int8": "llama.cpp Q8_0", "bf16": "llama.cpp BF16", "f32": "llama.cpp F32"}[kind]
    works: dict[str, Work] = {}
    against: list[tuple[str, str, str]] = []  # (what, ours, theirs)
    skipped: list[dict[str, Any]] = []
    with ExitStack() as stack:
        ours = {k: Ours(plan_of(checkpoint, k, work), a.threads) for k in kinds}
        for k, o in ours.items():
            works[f"decode {k}"], works[f"prefill {k}"] = o.decode, o.prefill

        def enter(name: str, make: Any, *measures: str) -> None:
            try:
                found = stack.enter_context(make)
            except Skip as reason:
                skipped.append({"model": model, "what": f"{kind} over {name}", "skipped": str(reason)})
                return
            for measure in measures:
                works[f"{measure} {name}"] = getattr(found, measure)
                compared = ("int8-dynamic",) if measure == "prefill" and kind == "int8" else kinds
                against.extend((f"{measure} {k} over {name}", f"{measure} {k}", f"{measure} {name}") for k in compared)

        enter(peer, llama_cpp(checkpoint, kind, work, a.threads), "decode", "prefill")
        if kind == "int8":
            enter("CTranslate2 int8", ctranslate2_int8(checkpoint, work, a.threads), "prefill")
        if kind == "f32":
            enter("llama2.c run", llama2c(a.llama2c, checkpoint, work, a.threads), "decode")
        found = rounds_of(works, a.rounds)
        for o in ours.values():
            o.engine.device.close()
    out = [
        {
            "model": model,
            "what": what,
            "ours": statistics.median(found[mine]),
            "theirs": statistics.median(found[theirs]),
            "ratio": statistics.median(x / y for x, y in zip(found[mine], found[theirs], strict=True)),
            "range": [f(x / y for x, y in zip(found[mine], found[theirs], strict=True)) for f in (min, max)],
        }
        for what, mine, theirs in against
    ]
    for k in kinds:
        one = Ours(plan_of(checkpoint, k, work), 1)
        found = rounds_of({"decode": one.decode, "read": bandwidth(work)}, a.rounds)
        shares = [t * one.bytes / b for t, b in zip(found["decode"], found["read"], strict=True)]
        out.append(
            {
                "model": model,
                "what": f"decode {k}, 1 thread, share of read bandwidth",
                "ours": statistics.median(found["decode"]) * one.bytes / 1e9,
                "theirs": statistics.median(found["read"]) / 1e9,
                "ratio": statistics.median(shares),
                "range": [min(shares), max(shares)],
            }
        )
        one.engine.device.close()
    return out + skipped


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| model | what | ours | theirs | ratio | of single rounds |", "|---|---|---|---|---|---|"]
    for r in rows:
        if "skipped" in r:
            lines.append(f"| {r['model']} | {r['what']} | | | skipped | {r['skipped']} |")
        else:
            low, high = r["range"]
            figures = f"{r['ours']:.1f} | {r['theirs']:.1f} | **{r['ratio']:.2f}** | {low:.2f} to {high:.2f}"
            lines.append(f"| {r['model']} | {r['what']} | {figures} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares speed on a CPU with other runtimes.")
    parser.add_argument("--work", type=Path, required=True, help="a folder for models, kept for the next time (25 GB)")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--rows", default=",".join(ROWS), help="precisions to compare: int8, bf16, f32")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama2c", type=Path, help="llama2.c's program run, built with -Ofast")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for model in a.models.split(","):
        for kind in a.rows.split(","):
            rows += row(model, kind, a)
            print(table(rows[-8:]), flush=True)
    print(f"\n{platform.processor() or platform.machine()}, {a.threads} threads, {a.rounds} rounds\n\n{table(rows)}")
    if a.json is not None:
        a.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
