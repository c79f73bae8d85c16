"""``graphllm bench``: prompt and generation speeds, of one model or of two turn by turn."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def run(a: argparse.Namespace) -> int:
    from graphllm.cli.loading import load_model
    from graphllm.cli.terminal import Meter
    from graphllm.errors import RunError
    from graphllm.measure.bandwidth import bandwidth_of
    from graphllm.measure.bench.cases import cases
    from graphllm.measure.bench.run import Subject, bench
    from graphllm.measure.bench.text import bench_text

    if a.rounds < 1:
        raise RunError(f"--rounds: {a.rounds}; expected 1 or more")
    batches, depths = a.batch or [1], a.depth or [0]
    with Meter() as meter:
        names = [a.model, *([a.against] if a.against is not None else [])]
        slots = max(batches)
        subjects: list[Subject] = []
        for i, name in enumerate(names):
            other = name if i else None
            more = {"slots": max(slots, a.slots)} if slots > 1 else {}
            if i:
                more |= {"context": a.context}
            subjects.append(Subject(Path(name).name or name, load_model(a, meter, other=other, **more)))
        context = min(s.model.engine.context for s in subjects)
        room = context - max(depths)
        if room < 1:
            said = f"--depth: {max(depths)}; this model has {context} positions"
            raise RunError(f"{said}, choose fewer or a larger --context")
        prompts = a.prompt if a.prompt is not None else [min(512, room)]
        generations = a.generate if a.generate is not None else [min(128, room)]
        chosen = cases(prompts, generations, batches, depths)
        rate = bandwidth_of(subjects[0].model.engine.device, a.threads)
        found = bench(subjects, chosen, a.rounds, bandwidth=rate, done=meter)
    print(json.dumps(found.as_json(), indent=1) if a.json else bench_text(found, markdown=a.markdown))
    return 0
