"""``graphllm compile``: a checkpoint into a plan, with progress and, at the end, a short table."""

from __future__ import annotations

import argparse
from typing import Any

from graphllm.cli.choices import compile_choices
from graphllm.cli.terminal import Meter


def run(a: argparse.Namespace) -> int:
    from graphllm import api

    with Meter(quiet=a.quiet) as meter:
        archs = tuple(a.arch.split(",")) if a.arch else ()
        choices: dict[str, Any] = {"target": a.target, "archs": archs, "dump_ir": a.dump_ir, **compile_choices(a)}
        choices |= {"measure": a.measure, "calibrate": a.calibrate}
        plan = api.compile(a.checkpoint, a.output, progress=meter, **choices)
    if not a.quiet:
        from graphllm.cli.show import page
        from graphllm.compiler.targets import resolve
        from graphllm.plan.place import shown, size_text

        print(page(plan.lowered, {}, plan.report.get("passes", [])))
        if (quality := plan.quality) is not None:
            from graphllm.compiler.quality import quality_text

            print("\n" + quality_text(*quality) + "\n")
        _, why = resolve(a.target)
        print(why or f"target {plan.target}")
        if plan.file.tokenizer is None:
            print("no tokenizer was found: run it on --ids, or compile with --tokenizer FILE")
        for note in plan.provenance.get("notes", []):
            print(f"note: {note}")
        print(f"written: {shown(plan.path)}, {size_text(plan.path.stat().st_size)}")
    return 0
