"""Speed and memory of the NumPy backend, as ratios taken within one run.

    python benchmarks/cpu.py                       all shapes, made in a temporary folder (about 20 GB of disk)
    python benchmarks/cpu.py tinyllama-1.1b --dir D --rounds 6

Each figure is a median over rounds in which our side and the yardstick take turns, because the speed of a shared
machine drifts by more than what is measured. Yardsticks: bare ``W @ x`` and ``X @ W.T`` over the same mapped weights
in the same process, a copy of the checkpoint's file, and for the real stories260K nothing (tokens a second).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from make_checkpoint import SHAPES, make_checkpoint

import graphllm

BIG = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")
PROMPT = 512


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of both, and the median of theirs / ours (1 = as fast, more = faster)."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    a, b = (statistics.median(p[i] for p in pairs) for i in (0, 1))
    return a, b, statistics.median(t / o for o, t in pairs)


def compile_against_copy(checkpoint: Path, plan: Path, rounds: int) -> dict[str, float]:
    """Seconds to compile, over seconds to copy the checkpoint's files; peak memory beyond a bare interpreter."""
    # not ru_maxrss: a child starts with its parent's
    code = (
        "import re, sys;"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]) * 1024;"
        "bare = peak();"
        "import graphllm; graphllm.compile(sys.argv[1], sys.argv[2]);"
        "print(peak() - bare)"
    )

    def compile_apart() -> int:
        """In a process of its own, as a person would; bytes of peak memory beyond the bare interpreter's."""
        command = [sys.executable, "-c", code, str(checkpoint), str(plan)]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    copy = plan.with_suffix(".copy")

    def copy_files() -> None:
        shutil.copytree(checkpoint, copy)
        os.sync()  # a plan is on the disk, too, when it is said to be written

    def alone(work: Callable[[], object]) -> float:
        """Seconds of ``work`` on a disk that has nothing else left to write."""
        plan.unlink(missing_ok=True)
        shutil.rmtree(copy, ignore_errors=True)
        os.sync()
        return seconds(work)

    pairs: list[tuple[float, float]] = []
    for i in range(rounds):
        if i % 2:
            ours, theirs = alone(compile_apart), alone(copy_files)
        else:
            theirs, ours = alone(copy_files), alone(compile_apart)
        pairs.append((ours, theirs))
    shutil.rmtree(copy, ignore_errors=True)
    return {
        "compile_s": statistics.median(c for c, _ in pairs),
        "compile_over_copy": statistics.median(c / t for c, t in pairs),
        "peak_mb": compile_apart() / 1e6,  # leaves the plan for what follows
    }


def big(name: str, folder: Path, rounds: int) -> dict[str, float]:
    """One true shape, f32, random weights."""
    checkpoint, plan = folder / name, folder / f"{name}.gllm"
    if not checkpoint.exists():
        make_checkpoint(SHAPES[name], checkpoint, "f32")
    out = compile_against_copy(checkpoint, plan, max(3, rounds // 2))
    graphllm.load(plan)
    out["load_s"] = statistics.median(seconds(lambda: graphllm.load(plan)) for _ in range(5))

    model = graphllm.load(plan)
    engine = model.engine
    stored = model.plan.lowered.stored_weights()
    out["largest_tensor_mb"] = max(w.type.bytes for w in stored) / 1e6
    # what a token reads once: every matrix but an untied embedding
    tied = model.plan.config["tied"]
    names = [w.name for w in stored if len(w.type.shape) == 2 and (tied or w.name != "tok_emb")]
    matrices = [model.plan.file.weight(n) for n in names]
    layers = [m for n, m in zip(names, matrices, strict=True) if n not in ("tok_emb", "lm_head")]
    classifier = matrices[names.index("tok_emb" if tied else "lm_head")]
    rng = np.random.default_rng(0)
    columns = {m.shape[1]: rng.random(m.shape[1], np.float32) for m in matrices}
    results = {m.shape[0]: np.empty(m.shape[0], np.float32) for m in matrices}

    def bare_products() -> None:
        for m in matrices:
            np.dot(m, columns[m.shape[1]], out=results[m.shape[0]])

    engine.feed([1, 2, 3])
    ours, theirs, ratio = interleaved(lambda: engine.step(4), bare_products, 4 * rounds)
    out |= {"decode_tok_s": 1 / ours, "bare_decode_tok_s": 1 / theirs, "decode_ratio": ratio}
    out["decode_gb_s"] = sum(m.nbytes for m in matrices) / ours / 1e9

    blocks = {m.shape[1]: rng.random((PROMPT, m.shape[1]), np.float32) for m in layers}
    wide = {m.shape[0]: np.empty((PROMPT, m.shape[0]), np.float32) for m in layers}

    def bare_gemms() -> None:
        for m in layers:
            np.matmul(blocks[m.shape[1]], m.T, out=wide[m.shape[0]])
        np.dot(classifier, columns[classifier.shape[1]], out=results[classifier.shape[0]])  # the last row's logits

    def prefill() -> None:
        engine.truncate(0)
        engine.feed(range(1, PROMPT + 1))

    ours, theirs, ratio = interleaved(prefill, bare_gemms, rounds)
    out |= {"prefill_tok_s": PROMPT / ours, "bare_prefill_tok_s": PROMPT / theirs, "prefill_ratio": ratio}
    return out


def stories(name: str, folder: Path, rounds: int) -> dict[str, float]:
    """Greedy decoding of the shape of stories260K: a whole ``generate`` call, tokenizer apart."""
    checkpoint, plan = folder / name, folder / f"{name}.gllm"
    if not checkpoint.exists():
        make_checkpoint(SHAPES[name], checkpoint, "f32")
    graphllm.compile(checkpoint, plan)
    model = graphllm.load(plan)

    def tokens_a_second() -> float:
        answer = model.stream([1, 403, 407], max_tokens=250, ignore_eos=True)
        taken = seconds(lambda: list(answer.tokens()))
        return 250 / taken

    tokens_a_second()
    return {"decode_tok_s": statistics.median(tokens_a_second() for _ in range(rounds))}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| shape (f32) | decode tok/s | of bare `W @ x` | prefill 512 tok/s | of bare GEMMs | compile / copy "
        "| peak memory | largest tensor | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        if "load_s" not in r:
            lines.append(f"| {name} | {r['decode_tok_s']:.0f} | | | | | | | |")
            continue
        lines.append(
            f"| {name} | {r['decode_tok_s']:.2f} | {r['decode_ratio']:.2f} | {r['prefill_tok_s']:.0f} "
            f"| {r['prefill_ratio']:.2f} | {r['compile_over_copy']:.2f} | {r['peak_mb']:.0f} MB "
            f"| {r['largest_tensor_mb']:.0f} MB | {r['load_s']:.2f} s |"
        )
    return "\n".join(lines)


def machine() -> str:
    """The processor's name, its cores in use, NumPy and Python."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = [s.split(":")[1] for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith("model name")]
        model = found[0].strip() if found else model
    return f"{model}, {os.cpu_count()} cores, NumPy {np.__version__}, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=[*BIG, "stories260k"], metavar="SHAPE")
    parser.add_argument("--dir", type=Path, help="keep checkpoints and plans here (default: a temporary folder)")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    arguments = parser.parse_args()
    unknown = [s for s in arguments.shapes if s not in SHAPES]
    if unknown:
        parser.error(f"unknown shape {unknown[0]}; known ones are {', '.join(SHAPES)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.dir or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, dict[str, float]] = {}
        for name in arguments.shapes:
            measure = stories if name == "stories260k" else big
            results[name] = measure(name, folder, arguments.rounds)
            print(name, json.dumps({k: round(v, 3) for k, v in results[name].items()}), file=sys.stderr, flush=True)
    print(f"{machine()}; medians of {arguments.rounds} interleaved rounds\n\n{table(results)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
