"""``graphllm profile``: where the time of a step goes, kernel by kernel."""

from __future__ import annotations

import argparse
import json


def run(a: argparse.Namespace) -> int:
    from graphllm.cli.device import named_device
    from graphllm.cli.loading import load_model
    from graphllm.cli.output import write_text
    from graphllm.cli.terminal import Meter, say
    from graphllm.measure.bandwidth import read_bandwidth
    from graphllm.measure.profile.run import What, flop_rate, profile
    from graphllm.measure.profile.text import chrome_trace, profile_text
    from graphllm.view.flame import flame_svg

    target, _ = named_device(a.device)
    with Meter() as meter:
        model = load_model(a, meter)
    what = What(a.function, a.position, a.steps, a.apart)
    rate = read_bandwidth(a.threads).bytes_per_second
    found = profile(model, target, what, threads=a.threads, read_rate=rate, flop_rate=flop_rate(), say=say)
    if a.trace is not None:
        write_text(a.trace, json.dumps(chrome_trace(found)))
    if a.svg is not None:
        write_text(a.svg, flame_svg(found))
    if a.output is not None:
        write_text(a.output, json.dumps(found.as_json()))
    print(json.dumps(found.as_json(), indent=1) if a.json else profile_text(found))
    return 0
