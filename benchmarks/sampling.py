"""What a sampler's choice costs, setting by setting: microseconds, and the share of a decode step that they are.

    python benchmarks/sampling.py                                   Qwen2.5's vocabulary; steps are not timed
    python benchmarks/sampling.py --plan qwen2.5-0.5b.gllm          beside steps of a plan, with its device's own code
    python benchmarks/sampling.py --step-ms 20 --device numpy       beside a step of so many milliseconds

Logits are *sharp*, as a trained model has them (40 likely tokens over a long tail), or *flat*, random ones. Settings
take turns, and medians count, because the speed of a shared machine drifts by more than what is measured.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import graphllm
from graphllm.runtime.sampling import Sampler, SamplerConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "top-k 40": {"temperature": 0.8, "top_k": 40},
    "min-p 0.05": {"temperature": 0.8, "min_p": 0.05},
    "top-p 0.9": {"temperature": 0.8, "top_p": 0.9},
    "top-p 0.9, repetition 1.1": {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1},
    "Qwen2.5's own": {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1},
}
HISTORY = 500  # tokens that a penalty counts


def sharp(rng: np.random.Generator, vocab: int) -> NDArray[np.float32]:
    logits = (rng.standard_normal(vocab) * 2).astype(np.float32)
    logits[rng.integers(vocab, size=40)] += np.linspace(18, 4, 40, dtype=np.float32)
    return logits


def flat(rng: np.random.Generator, vocab: int) -> NDArray[np.float32]:
    return rng.standard_normal(vocab).astype(np.float32)


def microseconds(samplers: Sequence[Sampler], rows: Sequence[NDArray[np.float32]], rounds: int) -> list[list[float]]:
    """Of each sampler's choices, in turns; every row has left the caches by the time it is needed again."""
    history = np.random.default_rng(0).integers(0, samplers[0].vocab, HISTORY).tolist()
    times: list[list[float]] = [[] for _ in samplers]
    for turn in range(rounds + 1):
        for own, sampler in zip(times, samplers, strict=True):
            start = time.perf_counter()
            sampler.sample(rows[turn % len(rows)], history)
            if turn:  # the first counts the history
                own.append((time.perf_counter() - start) * 1e6)
    return times


def step_microseconds(model: graphllm.Model, steps: int) -> float:
    """The median of some decode steps."""
    engine, times = model.engine, []
    engine.feed([1])
    for _ in range(min(steps, engine.context - 2)):
        start = time.perf_counter()
        engine.step(1)
        times.append((time.perf_counter() - start) * 1e6)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, help="whose steps and vocabulary to take")
    parser.add_argument("--device", default="cpu", help="whose code weighs tokens: cpu or numpy")
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--step-ms", type=float, help="a step, where no plan is given")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    step = args.step_ms * 1e3 if args.step_ms else None
    model = graphllm.load(args.plan or "demo", device=args.device)  # any library has the code
    vocab, weigher = model.engine.vocab if args.plan else args.vocab, model.engine.weigher
    if args.plan:
        step = step_microseconds(model, 40)
        print(f"a step takes {step / 1e3:.1f} ms")
    rng = np.random.default_rng(1)
    print(f"| {vocab} logits | setting | us | quartiles |{' of a step |' if step else ''}")
    print(f"|---|---|---|---|{'---|' if step else ''}")
    for kind in (sharp, flat):
        rows = [kind(rng, vocab) for _ in range(8)]
        samplers = [Sampler(SamplerConfig(seed=1, **s), vocab, vocab, weigher) for s in SETTINGS.values()]
        for name, times in zip(SETTINGS, microseconds(samplers, rows, args.rounds), strict=True):
            low, middle, high = statistics.quantiles(times, n=4)
            share = f" {middle / step:.2%} |" if step else ""
            print(f"| {kind.__name__} | {name} | {middle:.0f} | {low:.0f} to {high:.0f} |{share}")


if __name__ == "__main__":
    main()
