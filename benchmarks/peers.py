"""graphllm's native code beside llama.cpp, CTranslate2 and llama2.c, as ratios taken within one round.

    python benchmarks/peers.py --work D --llama2c RUN --stories FOLDER
    python benchmarks/peers.py --work D --models qwen2.5-0.5b --rows "decode int8" share --rounds 6 --json D/peers.json

Within a round every engine takes its turn, each in a process of its own, in another order every other round; a ratio is
of one round, and its median over the rounds counts, because the speed of a shared machine drifts by more than what is
measured. Weights are random in the true shapes, and every engine's input is made from the same checkpoint. A share is
of what one thread reads from memory in the same round. What cannot run is skipped, and the table says why.
"""

# pyright: basic

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from make_checkpoint import SHAPES, make_checkpoint
from peer_inputs import Unavailable, bytes_a_token, discard, make_input

from graphllm.frontends.open import open_checkpoint

MODELS = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")
STORIES = "stories260k"
HERE = Path(__file__).parent

Measure = Literal["decode", "prefill", "share", "generate"]
# tokens in one turn, long enough for a clock of milliseconds
TOKENS: dict[str, int] = {"decode": 32, "prefill": 512, "share": 32, "generate": 512}
READS = 2  # of 2 GiB in one turn, in either order


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: our rate over the peer's. Engines are "name format", ours with an ISA if not native."""

    measure: Measure
    ours: str
    peer: str
    goal: float | None = None

    @property
    def dtype(self) -> str:
        """What checkpoint both are made from."""
        return "f32" if self.ours.lower().endswith("f32") else "bf16"

    def __str__(self) -> str:
        if self.measure == "share":
            return f"share of reading, 1 thread: {self.ours}"
        return f"{self.measure} {self.ours} / {self.peer}"


READ = "streaming read"
ROWS = (
    Row("decode", "graphllm int8", "llama.cpp Q8_0", 1.25),
    Row("decode", "graphllm int8-dynamic", "llama.cpp Q8_0", 1.25),
    Row("decode", "graphllm int8 portable-native", "llama.cpp Q8_0", 0.7),
    Row("decode", "graphllm int8 portable", "llama.cpp Q8_0", 0.7),
    Row("decode", "graphllm bf16", "llama.cpp BF16", 1.05),
    Row("decode", "graphllm f32", "llama.cpp F32", 1.0),
    Row("decode", "graphllm f32", "llama2.c f32", 1.15),
    Row("prefill", "graphllm int8-dynamic", "llama.cpp Q8_0", 3.0),
    Row("prefill", "graphllm int8-dynamic", "CTranslate2 int8", 1.1),
    Row("prefill", "graphllm bf16", "llama.cpp BF16", 1.3),
    Row("prefill", "graphllm f32", "llama.cpp F32", 1.3),
    Row("share", "graphllm int8", READ, 0.8),
    Row("share", "llama.cpp Q8_0", READ),
    Row("share", "graphllm bf16", READ, 0.85),
    Row("share", "llama.cpp BF16", READ),
    Row("share", "graphllm f32", READ, 0.85),
    Row("share", "llama.cpp F32", READ),
)
STORIES_ROW = Row("generate", "graphllm f32", "llama2.c f32", 0.9)


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds, or why there are none. Rates in tokens/s; a share's peer in bytes/s."""

    model: str
    row: str
    goal: float | None
    threads: int
    ours: float = 0.0
    peer: float = 0.0
    ratio: float = 0.0
    least: float = 0.0
    most: float = 0.0
    rounds: int = 0
    skipped: str = ""


class Worker:
    """An engine in its own process (``peer_worker.py``), warm, waiting to be told."""

    def __init__(self, engine: str, path: Path, threads: int, warm: Sequence[Measure], isa: str = "native") -> None:
        self.engine = engine
        environment = os.environ | {"GRAPHLLM_ISA": isa}
        command = [sys.executable, str(HERE / "peer_worker.py"), engine, str(path), str(threads)]
        with path.with_name(f"{path.name}.{isa}.log").open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
        try:
            self._answer()
            for measure in warm:
                self.rate(measure)
        except Unavailable:
            self.close()
            raise

    def rate(self, measure: Measure) -> float:
        assert self.process.stdin is not None
        what = "read" if self.engine == READ else "decode" if measure == "share" else measure
        with contextlib.suppress(BrokenPipeError):  # the answer will say
            print(what, READS if what == "read" else TOKENS[measure], file=self.process.stdin, flush=True)
        return self._answer()["rate"]

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Unavailable(f"{self.engine} ended with status {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


class Llama2c:
    """``run``, started anew for every turn; it times itself, from its second token on."""

    def __init__(self, run: Path | None, model: Path, tokenizer: Path, threads: int) -> None:
        if run is None:
            raise Unavailable("no --llama2c")
        self.command = [str(run), str(model), "-t", "0", "-z", str(tokenizer), "-n"]
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}

    def rate(self, measure: Measure) -> float:
        done = subprocess.run(
            [*self.command, str(TOKENS[measure] + 1)], capture_output=True, env=self.environment, check=False
        )
        found = re.search(rb"achieved tok/s: ([\d.]+)", done.stderr)
        if found is None:
            raise Unavailable(f"run ended with status {done.returncode} and no rate")
        return float(found[1])

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Bench:
    """Where things are and how much to run."""

    work: Path
    threads: int
    rounds: int
    llama2c: Path | None

    def checkpoint(self, model: str, dtype: str) -> Path:
        return self.work / f"{model}.{dtype}"

    def input_of(self, model: str, engine: str) -> Path:
        """A plan must end in .gllm, and llama.cpp goes by .gguf."""
        name, kind, *_ = engine.split()
        suffix = {"graphllm": ".gllm", "llama.cpp": ".gguf"}.get(name, "")
        return self.work / f"{model}.{name}.{kind}{suffix}"

    def prepare(self, model: str, rows: Sequence[Row]) -> dict[str, str]:
        """Make what the rows' engines read; the reasons of those that cannot run."""
        checkpoint = self.checkpoint(model, rows[0].dtype)
        engines = engines_of(rows)
        inputs = {e: self.input_of(model, e) for e in engines if e != READ}
        if not checkpoint.exists():
            part = checkpoint.with_name(f"{checkpoint.name}.part")
            discard(part)
            make_checkpoint(SHAPES[model], part, rows[0].dtype)
            part.rename(checkpoint)
        reasons: dict[str, str] = {}
        for engine, path in inputs.items():
            name, kind, *_ = engine.split()
            print(f"{model}: {path.name}", file=sys.stderr, flush=True)
            try:
                make_input(name, kind, checkpoint, path)
            except Unavailable as reason:
                reasons[engine] = str(reason)
        return reasons

    def reader(self) -> Path:
        """The streaming read as a library."""
        from graphllm.errors import NativeError
        from graphllm.measure.bandwidth import reader_library

        try:
            return reader_library()
        except NativeError as error:
            raise Unavailable(f"no compiler for the streaming read: {error}") from None

    def start(self, model: str, engine: str, threads: int, warm: Sequence[Measure]) -> Worker | Llama2c:
        """Raises Unavailable."""
        if engine == READ:
            return Worker(READ, self.reader(), 1, warm)
        path = self.input_of(model, engine)
        if engine.startswith("llama2.c"):
            return Llama2c(self.llama2c, path / "model.bin", path / "tokenizer.bin", threads)
        name, _, *isa = engine.split()
        return Worker(name, path, threads, warm, *isa)


def engines_of(rows: Sequence[Row]) -> list[str]:
    """Each once, in the order of the rows."""
    return list(dict.fromkeys(e for row in rows for e in (row.ours, row.peer)))


def measured(
    engines: Sequence[str],
    measures: dict[str, list[Measure]],
    start: Callable[[str], Worker | Llama2c],
    rounds: int,
    reasons: dict[str, str],
) -> list[dict[tuple[str, Measure], float]]:
    """Each round's rates by (engine, measure). Who cannot run is put into ``reasons`` and left out."""
    running: dict[str, Worker | Llama2c] = {}
    try:
        for engine in engines:
            if engine not in reasons:
                try:
                    running[engine] = start(engine)
                except Unavailable as reason:
                    reasons[engine] = str(reason)
        out: list[dict[tuple[str, Measure], float]] = []
        for i in range(rounds):
            rates: dict[tuple[str, Measure], float] = {}
            order = list(running) if i % 2 == 0 else list(running)[::-1]
            for measure in ("decode", "prefill", "share", "generate"):
                for engine in order:
                    if measure in measures[engine] and engine not in reasons:
                        try:
                            rates[engine, measure] = running[engine].rate(measure)
                        except Unavailable as reason:
                            reasons[engine] = str(reason)
            out.append(rates)
        return out
    finally:
        for engine in running.values():
            engine.close()


def run_rows(bench: Bench, model: str, rows: Sequence[Row]) -> list[Result]:
    """Rows of one checkpoint and one number of threads, in common rounds."""
    threads = 1 if rows[0].measure == "share" else bench.threads
    reasons = bench.prepare(model, rows)
    engines = engines_of(rows)
    measures: dict[str, list[Measure]] = {
        e: list(dict.fromkeys(r.measure for r in rows if e in (r.ours, r.peer))) for e in engines
    }
    bytes_read: dict[str, float] = {}
    if rows[0].measure == "share":
        checkpoint = open_checkpoint(bench.checkpoint(model, rows[0].dtype))
        bytes_read = {r.ours: bytes_a_token(checkpoint, r.ours.split()[1]) for r in rows}

    def start(engine: str) -> Worker | Llama2c:
        return bench.start(model, engine, threads, measures[engine])

    rounds = measured(engines, measures, start, bench.rounds, reasons)
    return [summed_up(model, row, threads, rounds, reasons, bytes_read.get(row.ours, 1.0)) for row in rows]


def summed_up(
    model: str,
    row: Row,
    threads: int,
    rounds: Sequence[dict[tuple[str, Measure], float]],
    reasons: dict[str, str],
    scale: float = 1.0,
) -> Result:
    """Ratios within rounds, and their median; ``scale`` turns our rate into the peer's unit."""
    for engine in (row.peer, row.ours):
        if engine in reasons:
            return Result(model, str(row), row.goal, threads, skipped=f"{engine}: {reasons[engine]}")
    pairs = [(rates[row.ours, row.measure], rates[row.peer, row.measure]) for rates in rounds]
    ratios = [ours * scale / peer for ours, peer in pairs]
    return Result(
        model,
        str(row),
        row.goal,
        threads,
        ours=statistics.median(ours for ours, _ in pairs),
        peer=statistics.median(peer for _, peer in pairs),
        ratio=statistics.median(ratios),
        least=min(ratios),
        most=max(ratios),
        rounds=len(pairs),
    )


def run_stories(bench: Bench, folder: Path | None) -> Result:
    """The real stories260K, greedy, one thread: our whole ``generate`` call, and ``run`` from its second token on."""
    row, reasons = STORIES_ROW, dict[str, str]()
    if folder is None:
        reasons[row.ours] = "no --stories"
        return summed_up(STORIES, row, 1, [], reasons)
    model, tokenizer = folder / "stories260K.bin", folder / "tok512.bin"
    plan = bench.input_of(STORIES, row.ours)
    if not plan.exists():
        import graphllm

        graphllm.compile(model, plan, tokenizer=tokenizer, target="cpu")

    def start(engine: str) -> Worker | Llama2c:
        if engine == row.peer:
            return Llama2c(bench.llama2c, model, tokenizer, 1)
        return Worker("graphllm", plan, 1, ["generate"])

    # a turn takes 20 ms, so that there may be many
    engines = engines_of([row])
    measures: dict[str, list[Measure]] = {e: ["generate"] for e in engines}
    return summed_up(STORIES, row, 1, measured(engines, measures, start, 10 * bench.rounds, reasons), reasons)


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that share rounds: of one checkpoint, int8 apart from bf16, shares apart from the rest."""
    found: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        format_ = row.ours.split()[1].lower()
        kind = "int8" if format_.startswith(("int8", "q8")) else format_
        found.setdefault((kind, row.measure == "share"), []).append(row)
    return [found[key] for key in sorted(found)]


def table(results: Sequence[Result]) -> str:
    """Markdown; bold where the goal is missed."""
    lines = [
        "| model | threads | figure | ours tok/s | peer tok/s | ratio | least to most | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        goal = f">= {r.goal:.2f}" if r.goal is not None else ""
        if r.skipped:
            lines.append(f"| {r.model} | {r.threads} | {r.row} | skipped: {r.skipped} | | | | {goal} |")
            continue
        ratio = f"**{r.ratio:.3f}**" if r.goal is not None and r.ratio < r.goal else f"{r.ratio:.3f}"
        peer = f"{r.peer / 1e9:.1f} GB/s" if r.row.startswith("share") else f"{r.peer:.4g}"
        spread = f"{r.least:.2f} to {r.most:.2f}"
        lines.append(f"| {r.model} | {r.threads} | {r.row} | {r.ours:.4g} | {peer} | {ratio} | {spread} | {goal} |")
    return "\n".join(lines)


def machine() -> str:
    """The processor's name, the cores in use, Python."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        found = [s.split(":")[1] for s in Path("/proc/cpuinfo").read_text().splitlines() if s.startswith("model name")]
        model = found[0].strip() if found else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def merged(path: Path | None, results: Sequence[Result]) -> list[Result]:
    """The file's results with the new ones in place of their elders, in the order of the rows."""
    old = json.loads(path.read_text())["results"] if path is not None and path.exists() else []
    by_name = {(r.model, r.row): r for r in [*(Result(**o) for o in old), *results]}
    rows = [str(r) for r in (*ROWS, STORIES_ROW)]
    return sorted(by_name.values(), key=lambda r: ((*MODELS, STORIES).index(r.model), rows.index(r.row)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, metavar="DIR", help="checkpoints and inputs, kept for reuse"
    )
    parser.add_argument("--models", nargs="+", default=[*MODELS, STORIES], choices=[*MODELS, STORIES], metavar="MODEL")
    parser.add_argument("--rows", nargs="+", default=[""], metavar="TEXT", help="only rows with one of these in them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--llama2c", type=Path, metavar="RUN", help="llama2.c's run, built -Ofast -fopenmp")
    parser.add_argument("--stories", type=Path, metavar="DIR", help="holds stories260K.bin and tok512.bin")
    parser.add_argument("--json", type=Path, help="figures are kept there, beside those of earlier runs")
    parser.add_argument("--prepare", action="store_true", help="only make the inputs")
    parser.add_argument("--discard", action="store_true", help="remove a model's inputs once they are measured")
    a = parser.parse_args()

    a.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(a.work, a.threads, a.rounds, a.llama2c)
    chosen = [row for row in ROWS if any(text in str(row) for text in a.rows)]
    results: list[Result] = []
    for model in a.models:
        if model == STORIES:
            if not a.prepare and any(text in str(STORIES_ROW) for text in a.rows):
                results.append(run_stories(bench, a.stories))
            continue
        for rows in groups(chosen):
            if a.prepare:
                bench.prepare(model, rows)
                continue
            results += run_rows(bench, model, rows)
            print(table(results[-len(rows) :]), file=sys.stderr, flush=True)
        if a.discard:
            for path in a.work.glob(f"{model}.*"):
                discard(path)
    if a.prepare:
        return
    results = merged(a.json, results)
    today = datetime.date.today().isoformat()
    print(f"{today}, {machine()}; medians of ratios within {a.rounds} interleaved rounds\n\n{table(results)}")
    if a.json is not None:
        record = {"date": today, "machine": machine(), "results": [asdict(r) for r in results]}
        a.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
