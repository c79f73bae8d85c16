"""``graphllm profile``: where the time of a step goes, kernel by kernel."""

from __future__ import annotations

import argparse
import json


def run(a: argparse.Namespace) -> int:
    from graphllm.cli.loading import load_model
    from graphllm.cli.output import write_text
    from graphllm.cli.terminal import Meter, say
    from graphllm.compiler.targets import resolve_device
    from graphllm.measure.bandwidth import bandwidth_of
    from graphllm.measure.profile.run import What, flop_rate, profile
    from graphllm.measure.profile.text import chrome_trace, profile_text
    from graphllm.view.flame import flame_svg

    with Meter() as meter:
        model = load_model(a, meter)
    what = What(a.function, a.position, a.steps, a.apart)
    on_host = model.engine.device.name in ("cpu", "numpy")
    rates = bandwidth_of(model.engine.device, a.threads), flop_rate() if on_host else 0.0
    _, number, _ = resolve_device(a.device)
    found = profile(model, what, threads=a.threads, number=number, read_rate=rates[0], flop_rate=rates[1], say=say)
    if a.trace is not None:
        write_text(a.trace, json.dumps(chrome_trace(found)))
    if a.svg is not None:
        write_text(a.svg, flame_svg(found))
    if a.output is not None:
        write_text(a.output, json.dumps(found.as_json()))
    print(json.dumps(found.as_json(), indent=1) if a.json else profile_text(found))
    return 0
