"""One session on a real GPU, under nine minutes, without a network: is everything right, and how fast is it?

    python benchmarks/gpu_session.py -o session.json                      # on the GPU
    python benchmarks/gpu_session.py --device cuda-sim --tiny             # the same path, played by the CPU

First what the machine is and can do (read bandwidth, launches, barriers), then correctness (every function against
float64, whole models against NumPy, compute-sanitizer where it is), then speed, as shares of the bandwidth measured in
the same run, PyTorch beside it where it is installed. A step that fails is told and the next begins; none begins that
the time left does not allow. One JSON, one table.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import graphllm
from benchmarks.cuda_shapes import CudaModel, Stored, cuda_model
from benchmarks.gpu_probes import (
    EMPTY,
    Reader,
    barrier,
    barrier_cost,
    dense,
    dense_peak,
    launch_cost,
    random_weights,
    read_speed,
)
from benchmarks.gpu_torch import TorchDecoder
from graphllm.compiler.launches.bytes_moved import step_moved
from graphllm.compiler.native.simulated import simulated
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.library import nvrtc_version
from graphllm.ir.cost import op_flops, step_flops
from graphllm.ir.interpreter import interpret
from graphllm.ir.ops.sequence import ATTENTION
from graphllm.plan.launch import Kernel
from graphllm.runtime.batch import Request, complete
from graphllm.runtime.cuda.calls import driver_calls
from graphllm.runtime.cuda.device import CudaDevice
from graphllm.runtime.cuda.driver import Driver
from graphllm.runtime.cuda.gpu import Gpu
from graphllm.runtime.cuda.simulator import Simulator
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import Sampler, SamplerConfig

# model, how it is stored, share of the measured bandwidth that its decode is to reach
SPEED: tuple[tuple[str, Stored, float], ...] = (
    ("llama-3.2-1b", "bf16", 0.80),
    ("llama-3.2-1b", "int8", 0.66),
    ("llama-3-8b", "bf16", 0.92),
    ("llama-3-8b", "int8", 0.86),
    ("tinyllama-1.1b", "f32", 0.84),
    ("tinyllama-1.1b", "bf16", 0.70),
    ("tinyllama-1.1b", "int8", 0.55),
    ("qwen2.5-0.5b", "bf16", 0.51),
    ("qwen2.5-0.5b", "int8", 0.35),
)
PREFILL = {("llama-3-8b", "bf16"): 0.55}  # share of the measured dense peak that a prompt of 2048 is to reach
RIGHT = 2e-3  # of the largest logit, f32 sums and an f16 cache against float64


class Session:
    """What is run, on what, and what came of it."""

    def __init__(self, device: str, tiny: bool, minutes: float) -> None:
        self.device, self.tiny = device, tiny
        self.end = time.monotonic() + 60 * minutes
        self.found: dict[str, Any] = {"device": device, "tiny": tiny, "steps": {}}

    def driver(self, kernels: Sequence[Kernel], *, together: bool = False) -> Driver:
        """A driver with these kernels."""
        if self.device == "cuda-sim":
            return Simulator(simulated(kernels, "sm_90", watch=False), "sm_90", together=together)
        gpu = Gpu(driver_calls())
        made = built(kernels, [gpu.arch])
        gpu.load({n: c.code for (n, _), c in made.items()}, {n: gpu.arch for n, _ in made})
        return gpu

    def loaded(self, model: CudaModel, poison: bool = False) -> tuple[CudaDevice, Engine, Callable[[str], Any]]:
        """A model with random weights on the device, and those weights by name."""
        weight, types = random_weights(1), {w.name: w.type for w in model.module.stored_weights()}

        def read(name: str) -> Any:
            return weight(name, types[name].dtype, types[name].shape)

        driver = self.driver(list(model.program.kernels.values()))
        device = CudaDevice(driver, model.program, model.module, read, poison=poison)
        return device, Engine(device, model.module), read

    @contextmanager
    def step(self, name: str, needs: float = 5.0) -> Iterator[dict[str, Any]]:
        """A step of the session: its findings, its failure, or that there was no time for it."""
        out: dict[str, Any] = {}
        self.found["steps"][name] = out
        begun = time.monotonic()
        try:
            if self.end - begun < needs:
                raise TimeoutError(f"{self.end - begun:.0f} s left, it needs {needs:.0f}")
            yield out
        except Exception as error:  # the next step may still tell something
            out["error"] = f"{type(error).__name__}: {error}"
        out["seconds"] = round(time.monotonic() - begun, 2)
        print(f"{name}: " + ", ".join(f"{k} {_short(v)}" for k, v in out.items()), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cuda", "cuda-sim"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="very small shapes: to see that the script works")
    parser.add_argument("--minutes", type=float, default=9.0, help="no step begins after so many (default: 9)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the JSON there")
    a = parser.parse_args()
    session = Session(a.device, a.tiny, a.minutes)
    environment(session)
    bandwidth, peak = probes(session)
    right(session)
    whole_models(session)
    batches(session)
    sanitizer(session)
    speed(session, bandwidth, peak)
    torch_beside(session)
    print("\n" + table(session.found))
    if a.output:
        Path(a.output).write_text(json.dumps(session.found, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, out in session.found["steps"].items() if "error" in out and not out.get("optional")]
    if failed:
        print(f"\nfailed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def environment(s: Session) -> None:
    with s.step("environment", 1) as out:
        out |= {"graphllm": graphllm.__version__, "python": platform.python_version(), "numpy": np.__version__}
        driver = s.driver([EMPTY])
        out |= {"machine": driver.what, "arch": driver.arch, "free": driver.room()}
        if s.device == "cuda":
            out["nvrtc"] = nvrtc_version()
        driver.close()


def probes(s: Session) -> tuple[float, float]:
    """Bytes a second that memory can be read with, and operations of the tensor cores; 0 where it was not measured."""
    sms, size = 132, (1 << 16) if s.tiny else 8 << 30
    best = 0.0
    with s.step("read bandwidth", 30) as out:
        probe = s.driver([EMPTY])
        if isinstance(probe, Gpu):
            sms, size = probe.sms, min(size, probe.room() // 2 // 4096 * 4096)
        probe.close()
        ways = ((128, 4, 1),) if s.tiny else tuple((t, n, b) for t in (256, 512) for n in (2, 4, 8) for b in (2, 4))
        readers = [Reader(t, n, 2 if s.tiny else sms * b, size) for t, n, b in ways]
        driver = s.driver([r.kernel for r in readers])
        buffer = driver.allocate(size)
        driver.fill(buffer, size, 0)
        speeds = read_speed(driver, readers, buffer, size)
        driver.close()
        best = max(speeds.values())
        out |= {"bytes_a_second": best, "ways": speeds, "size": size}
    with s.step("launch cost") as out:
        driver = s.driver([EMPTY])
        count = 8 if s.tiny else 80
        out["overlapping_s" if driver.arch >= "sm_90" else "in_order_s"] = launch_cost(driver, count)
        if isinstance(driver, Gpu) and driver.overlaps:
            driver.overlaps = False
            out["in_order_s"] = launch_cost(driver, count)
        elif isinstance(driver, Gpu):
            out["note"] = "graphs did not keep the overlap of launches"
        driver.close()
    with s.step("barrier cost") as out:
        blocks, rounds = (4, 2) if s.tiny else (sms, 200)
        driver = s.driver([barrier(blocks, rounds)], together=True)
        out["seconds"] = barrier_cost(driver, blocks, rounds)
        out["blocks"] = blocks
        driver.close()
    peak = 0.0
    with s.step("dense peak") as out:
        blocks, rounds = (1, 2) if s.tiny else (4 * sms, 20_000)
        driver = s.driver([dense(rounds)])
        peak = dense_peak(driver, blocks, rounds)
        out["flop_s"] = peak
        driver.close()
    return best, peak


def right(s: Session) -> None:
    """Every function of a layer or two in true widths against float64, from a poisoned arena."""
    names = ("tiny",) if s.tiny else ("llama-3.2-1b", "qwen2.5-0.5b", "tinyllama-1.1b")
    kinds: tuple[Stored, ...] = ("bf16",) if s.tiny else ("bf16", "int8", "f32")
    for name in names:
        for stored in kinds:
            with s.step(f"right: {name} {stored}", 40) as out:
                slots, context = (2, 24) if s.tiny else (8, 160)
                model = cuda_model(name, stored, slots=slots, context=context, layers=1, vocab=0 if s.tiny else 4099)
                device, engine, read = s.loaded(model, poison=True)
                worst = 0.0
                for function in model.module.functions:
                    error = _error(model, engine, device, read, function)
                    worst = max(worst, error)
                    out[function] = error
                device.close()
                if not worst <= RIGHT:
                    raise AssertionError(f"off by {worst:.2g} of the largest logit; expected at most {RIGHT:g}")


def _error(model: CudaModel, engine: Engine, device: CudaDevice, read: Any, function: str) -> float:
    """How far a function's logits are from float64, of the largest; caches begin empty, rows are random."""
    f = model.module.functions[function]
    rows, rng = f.inputs[0].type.shape[0], np.random.default_rng(rows_seed(function))
    kind = function.partition("_")[0]
    live = min(rows, engine.slots if kind == "decode" else engine.context)
    ids = rng.integers(0, engine.vocab, live)
    inputs = {"ids": np.zeros(rows, np.int32), "pos": np.full(rows, -1, np.int32), "slot": np.zeros(rows, np.int32)}
    inputs["ids"][:live] = ids
    inputs["pos"][:live] = 0 if kind == "decode" else np.arange(live)
    inputs["slot"][:live] = np.arange(live) if kind == "decode" else 0
    if any(v.name == "rows" for v in f.inputs):
        inputs["rows"] = np.array([live - 1], np.int32)
    states = {n: np.zeros(t.type.shape, t.type.numpy) for n, t in model.module.states.items()}
    (want,), _ = interpret(f, inputs, lambda w: read(w.name), states, wide=True)
    tokens = [int(i) for i in ids]
    if kind == "decode":
        got = device.rows(function, [graphllm_row(t, slot) for slot, t in enumerate(tokens)])
    else:
        got = device.block(function, tokens, 0, 0)
    got, want = np.array(got).reshape(want.shape), want
    count = live if len(want) > 1 else 1
    return float(np.abs(got[:count] - want[:count]).max() / np.abs(want[:count]).max())


def rows_seed(function: str) -> int:
    """The same for the same function, in every run."""
    return sum(map(ord, function))


def graphllm_row(token: int, slot: int) -> Any:
    from graphllm.runtime.device import Row

    return Row(token, 0, slot)


def whole_models(s: Session) -> None:
    """The demo's tokens on the device and on NumPy: the same, greedy and drawn."""
    with s.step("whole model", 30) as out:
        n = 6 if s.tiny else 200
        prompt = "Once upon a time"
        ours, reference = (graphllm.load("demo", device=d) for d in (s.device, "numpy"))
        settings: list[dict[str, Any]] = [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 7}]
        for setting in settings[: 1 if s.tiny else 2]:
            a, b = (m.generate(prompt, max_tokens=n, ignore_eos=True, **setting).tokens for m in (ours, reference))
            same = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), n)
            out["drawn" if setting else "greedy"] = f"{same} of {n} tokens the same"
            if same < n and not setting:
                raise AssertionError(f"tokens differ from NumPy's after {same}")


def batches(s: Session) -> None:
    """Answers of four prompts side by side, each token chosen on the device by its row's settings, and NumPy's."""
    with s.step("batches", 30) as out:
        n = 3 if s.tiny else 100
        kinds = [
            SamplerConfig(),
            SamplerConfig(temperature=0.8, seed=3),
            SamplerConfig(temperature=0.9, top_p=0.9, seed=4),
        ]
        kinds = [*kinds, SamplerConfig()][: 2 if s.tiny else 4]
        answers: list[list[list[int]]] = []
        for name in (s.device, "numpy"):
            engine = graphllm.load("demo", device=name, slots=len(kinds)).engine
            asked = [
                Request(list(range(5, 8 + i)), Sampler(kind, engine.vocab, engine.vocab), n)
                for i, kind in enumerate(kinds)
            ]
            answers.append([p.tokens for _, p in sorted(complete(engine, asked), key=lambda done: done[0])])
            if name == s.device and not all(engine.chooses(r.sampler) for r in asked if isinstance(r.sampler, Sampler)):
                raise AssertionError("the device was to choose all tokens of these rows")
        for kind, a, b in zip(kinds, *answers, strict=True):
            same = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), n)
            what = "drawn" if kind.temperature else "greedy"
            out[what] = min(same, out.get(what, n))
            if same < n and not kind.temperature:
                raise AssertionError(f"tokens of a row differ from NumPy's after {same}")


def sanitizer(s: Session) -> None:
    with s.step("compute-sanitizer", 60) as out:
        out["optional"] = True
        tool = shutil.which("compute-sanitizer")
        if tool is None or s.device != "cuda":
            raise FileNotFoundError("not on this machine")
        run = [sys.executable, "-m", "graphllm", "run", "demo", "--device", "cuda", "-p", "Once", "-n", "4"]
        for kind in ("memcheck", "racecheck", "initcheck"):
            done = subprocess.run(
                [tool, "--tool", kind, "--error-exitcode", "9", *run], capture_output=True, text=True, timeout=60
            )
            out[kind] = "clean" if done.returncode == 0 else done.stdout[-400:]


def speed(s: Session, bandwidth: float, peak: float) -> None:
    """Decode by shares of the bandwidth, prefill by shares of the dense peak."""
    for name, stored, goal in (("tiny", "bf16", 0.0),) if s.tiny else SPEED:
        with s.step(f"speed: {name} {stored}", 45) as out:
            prompt, count = (8, 4) if s.tiny else (2048, 128)
            context = prompt + count + 8
            model = cuda_model(name, stored, context=context)  # pyright: ignore[reportArgumentType]
            device, engine, _ = s.loaded(model)
            device.prepare("decode")
            ids = np.random.default_rng(0).integers(0, engine.vocab, prompt).tolist()
            engine.feed(ids[:4])
            for _ in engine.tokens(5, 0, Sampler(SamplerConfig(), engine.vocab, engine.vocab), 4):
                pass  # warm
            begun, held = time.perf_counter(), engine.lengths[0]
            for _ in engine.tokens(5, 0, Sampler(SamplerConfig(), engine.vocab, engine.vocab), count):
                pass
            each = (time.perf_counter() - begun) / count
            moved = step_moved(model.program.streams["decode"], model.module.functions["decode"], held + count // 2)
            out |= {"decode_tok_s": 1 / each, "bytes_a_token": moved.moved, "goal": goal}
            out["share_of_bandwidth"] = moved.moved / each / bandwidth if bandwidth else None
            out["launch_us"] = launch_times(device, engine.lengths[0] - 1)
            engine.truncate(0)
            engine.feed(ids)  # warm: every chunk's graph is made
            engine.truncate(0)
            begun = time.perf_counter()
            engine.feed(ids)
            prefill = time.perf_counter() - begun
            done = prompt_flops(model, prompt, context) / prefill
            out |= {
                "prefill_tok_s": prompt / prefill,
                "prefill_flop_s": done,
                "prefill_goal": PREFILL.get((name, stored)),
            }
            out["share_of_dense_peak"] = done / peak if peak else None
            device.close()


def prompt_flops(model: CudaModel, prompt: int, context: int) -> float:
    """What a prompt takes: rows see half of it on the average, and one has logits."""
    function = max(
        (f for f in model.module.functions.values() if f.name.startswith("prefill")),
        key=lambda f: f.inputs[0].type.shape,
    )
    attention = sum(op_flops(op) for op in function.walk() if op.name in ATTENTION)
    rows = function.inputs[0].type.shape[0]
    return prompt / rows * (step_flops(function) - attention * (1 - prompt / 2 / context))


def launch_times(device: CudaDevice, position: int) -> dict[str, float]:
    """Microseconds of a decode step by kernel, its launches one after another: the quickest of a few steps."""
    best = min((device.time_launches("decode", [5], position, 0)[1] for _ in range(5)), key=lambda ends: ends[-1])
    out: dict[str, float] = {}
    for launch, begin, end in zip(device.program.streams["decode"].launches, [0, *best], best, strict=False):
        out[launch.kernel] = out.get(launch.kernel, 0.0) + (end - begin) / 1e3
    return out


def torch_beside(s: Session) -> None:
    prompt, steps = (8, 4) if s.tiny else (2048, 64)
    names = ("llama-3.2-1b", "tinyllama-1.1b", "qwen2.5-0.5b", "llama-3-8b")
    for name in ("tiny",) if s.tiny else names:
        for compiled in (False, True):
            with s.step(f"PyTorch {'compiled' if compiled else 'eager'}: {name} bf16", 60 if compiled else 20) as out:
                out["optional"] = True
                config = cuda_model(name, "bf16", context=64).config
                decoder = TorchDecoder(config, context=512)
                out["decode_tok_s"] = decoder.decode(compiled=compiled, steps=steps)
                del decoder  # one model's weights at a time
                out["prefill_tok_s"] = TorchDecoder(config, context=prompt).prefill(prompt, compiled=compiled)


def table(found: dict[str, Any]) -> str:
    """Speeds as a table in Markdown, and what the probes say should be done next."""
    steps = found["steps"]
    lines = [
        "| | decode tok/s | share of measured bandwidth | goal | prefill tok/s | share of measured dense peak | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, out in steps.items():
        if "decode_tok_s" in out:
            share = out.get("share_of_bandwidth")
            cells = [f"{out['decode_tok_s']:.1f}", f"{share:.2f}" if share else "", str(out.get("goal", ""))]
            cells.append(f"{out['prefill_tok_s']:.0f}" if "prefill_tok_s" in out else "")
            share = out.get("share_of_dense_peak")
            cells += [f"{share:.2f}" if share else "", str(out.get("prefill_goal") or "")]
            lines.append(f"| {name.removeprefix('speed: ')} | {' | '.join(cells)} |")
    cost, meet = steps.get("launch cost", {}), steps.get("barrier cost", {})
    if "overlapping_s" in cost and "seconds" in meet and "error" not in meet:
        delta, met = 1e6 * cost["overlapping_s"], 1e6 * meet["seconds"]
        rule = "stay with graphs of launches; int8 and prefill are next" if delta <= 1.5 else "measure kernels first"
        if delta > 2 and met <= 1.2:
            rule = "a persistent kernel with its own barrier is worth building"
        lines.append(f"\na launch costs {delta:.2f} us, a barrier {met:.2f} us: {rule}")
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:160]


if __name__ == "__main__":
    raise SystemExit(main())
