"""Times models, one or two of them turn by turn, so that both meet the machine in the same mood.

Rounds go over all cases; within a round every case is run by each model in turn. Ratios are of the same round, and
their median is what is told. Tokens are random, from a fixed seed: what they say does not change what a step costs.
Where the device chooses tokens it does so here, the likeliest, from a first one that is random.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from graphllm.api import Model
from graphllm.ir.core import Module
from graphllm.ir.cost import cached_bytes_per_position, step_bytes
from graphllm.measure.bench.cases import Case
from graphllm.measure.bench.energy import read_energy
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import Sampler, SamplerConfig

_WARM: Final = 8  # steps of a generation before it is timed


@dataclass(frozen=True, slots=True)
class Timed:
    """A case on a model.

    Attributes:
        speeds: tokens a second, one a round.
        joules: a token, the median of the rounds; None where energy cannot be read.
        moved: bytes that each token moves at least: weights, and the cache at the middle of the run. 0 for prompts.
    """

    case: Case
    speeds: tuple[float, ...]
    joules: float | None
    moved: int

    @property
    def speed(self) -> float:
        """The median."""
        return statistics.median(self.speeds)

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.speeds, (0.25, 0.75))
        return float(low), float(high)

    def share(self, bandwidth: float) -> float:
        """Of the bandwidth, how much it used."""
        return self.speed * self.moved / bandwidth if bandwidth else 0.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model under its name."""

    name: str
    model: Model


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured: ``timed[i]`` belongs to ``names[i]``, and all have the cases in one order.

    ``bandwidth`` is the machine's measured read bandwidth, bytes a second; 0 where it was not measured.
    """

    names: tuple[str, ...]
    about: tuple[dict[str, Any], ...]
    timed: tuple[tuple[Timed, ...], ...]
    bandwidth: float

    def ratio(self, case: int) -> float:
        """The median over rounds of the first model's speed over the second's, in the same round."""
        first, second = (t[case].speeds for t in self.timed[:2])
        return statistics.median(a / b for a, b in zip(first, second, strict=True))

    def as_json(self) -> dict[str, Any]:
        models = [
            {"name": name, **about, "tests": [self._test(t) for t in timed]}
            for name, about, timed in zip(self.names, self.about, self.timed, strict=True)
        ]
        out: dict[str, Any] = {"bandwidth": self.bandwidth, "models": models}
        if len(self.names) == 2:
            out["ratios"] = {t.case.name: self.ratio(i) for i, t in enumerate(self.timed[0])}
        return out

    def _test(self, t: Timed) -> dict[str, Any]:
        return {
            "test": t.case.name,
            "tokens_per_second": t.speed,
            "quartiles": list(t.quartiles),
            "rounds": list(t.speeds),
            "joules_per_token": t.joules,
            "bytes_per_token": t.moved,
            "share_of_bandwidth": t.share(self.bandwidth) if t.moved else None,
        }


def bench(
    subjects: Sequence[Subject],
    cases: Sequence[Case],
    rounds: int,
    *,
    bandwidth: float = 0.0,
    done: Callable[[str, int, int], None] = lambda what, n, total: None,
) -> Bench:
    """Time every case on every model.

    Raises:
        RunError: a case that a model's context or slots cannot hold.
    """
    for subject in subjects:
        for case in cases:
            case.check(subject.model.engine)
    speeds: dict[tuple[int, int], list[float]] = {}
    joules: dict[tuple[int, int], list[float]] = {}
    total = (rounds + 1) * len(cases) * len(subjects)
    at = 0
    for turn in range(rounds + 1):  # the first is not counted: code, pages and clocks warm up
        for i, case in enumerate(cases):
            for j, subject in enumerate(subjects):
                speed, energy = _run(subject.model.engine, case, warm=turn == 0)
                at += 1
                done("rounds", at, total)
                if turn:
                    speeds.setdefault((j, i), []).append(speed)
                    if energy is not None:
                        joules.setdefault((j, i), []).append(energy)
    timed = tuple(
        tuple(
            Timed(
                case,
                tuple(speeds[j, i]),
                statistics.median(joules[j, i]) if (j, i) in joules else None,
                moved(subject.model.lowered, case),
            )
            for i, case in enumerate(cases)
        )
        for j, subject in enumerate(subjects)
    )
    return Bench(tuple(s.name for s in subjects), tuple(_about(s.model) for s in subjects), timed, bandwidth)


def moved(module: Module, case: Case) -> int:
    """Bytes a token of a generation moves, averaged over it; 0 for a prompt, which is bound by arithmetic."""
    if case.kind == "pp":
        return 0
    sizes = {f.inputs[0].type.shape[0]: f for f in module.functions.values() if f.name.startswith("decode")}
    function = sizes[min(n for n in sizes if n >= case.batch)]
    cached = cached_bytes_per_position(function) * (case.depth + (case.tokens + 1) // 2)
    return step_bytes(function) // case.batch + cached


def _about(model: Model) -> dict[str, Any]:
    device, engine = model.engine.device, model.engine
    return {
        "device": device.name,
        "threads": getattr(device, "threads", 1),
        "weight_bytes": sum(w.type.bytes for w in model.lowered.stored_weights()),
        "context": engine.context,
        "kv_dtype": next(iter(model.lowered.states.values())).type.dtype,
    }


def _run(engine: Engine, case: Case, *, warm: bool) -> tuple[float, float | None]:
    """(tokens a second, joules a token)."""
    rng = np.random.default_rng(0)
    ids: list[list[int]] = rng.integers(0, engine.vocab, (case.batch, case.depth + case.tokens)).tolist()
    for slot in range(case.batch):
        engine.truncate(0, slot)
        if case.depth:
            engine.feed(ids[slot][: case.depth], slot)
    work = _prompt if case.kind == "pp" else _generation
    if warm and case.kind == "tg":
        ids = [row[: case.depth + min(_WARM, case.tokens)] for row in ids]
    before, start = read_energy(), time.perf_counter()
    rows = work(engine, case, ids)
    seconds, energy = time.perf_counter() - start, read_energy().joules_since(before)
    return rows / seconds, energy / rows if energy is not None else None


def _prompt(engine: Engine, case: Case, ids: Sequence[Sequence[int]]) -> int:
    engine.feed(ids[0][case.depth :])
    return case.tokens


def _generation(engine: Engine, case: Case, ids: Sequence[Sequence[int]]) -> int:
    steps = len(ids[0]) - case.depth
    greedy = Sampler(SamplerConfig(), engine.vocab, engine.vocab)
    if engine.chooses(greedy):  # as answers are made there: each token follows the last without the host
        rows = [(row[case.depth], slot, greedy) for slot, row in enumerate(ids)]
        chosen = engine.tokens(*rows[0], steps) if case.batch == 1 else engine.tokens_many(rows, steps)
        for _ in chosen:
            pass
    elif case.batch == 1:
        for token in ids[0][case.depth :]:
            engine.step(token)
    else:
        for t in range(case.depth, case.depth + steps):
            engine.step_many([(row[t], slot) for slot, row in enumerate(ids)])
    return steps * case.batch
