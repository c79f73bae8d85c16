"""``graphllm demo``: the model that comes with graphllm is compiled, what the compiler did is told, a story follows."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from graphllm.cli import run as run_command
from graphllm.cli.choices import load_choices
from graphllm.cli.terminal import Meter, say

if TYPE_CHECKING:
    from graphllm.api import Model

OPENING = "Once upon a time"


def run(a: argparse.Namespace) -> int:
    from graphllm import api

    a.model = str(api.source_of("demo"))
    if a.prompt is None and a.file is None and a.ids is None:
        a.prompt = OPENING
    with Meter() as meter:
        started = time.perf_counter()
        model = api.load(a.model, device=a.device, threads=a.threads, progress=meter, **load_choices(a))
        _tell(model, time.perf_counter() - started)
    a.stats = True
    return run_command.run(a)


def _tell(model: Model, seconds: float) -> None:
    """A few lines on what the compiler did."""
    from graphllm.ir.cost import step_bytes
    from graphllm.plan.place import size_text

    decode = model.lowered.functions["decode"]
    operations = sum(1 for _ in decode.walk())
    weights = sum(w.type.bytes for w in model.lowered.stored_weights())
    say(
        f"compiled for {model.engine.device.name}, ready in {seconds:.2f} s: "
        f"a step is {operations} operations in {len(decode.ops)} kernels"
    )
    say(
        f"weights {size_text(weights)} · {size_text(step_bytes(decode))} moved a token · "
        f"arena {size_text(decode.arena or 0)} · graphllm show demo tells more"
    )
