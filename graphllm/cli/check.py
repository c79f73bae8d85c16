"""``graphllm check``: whether a plan or a checkpoint fits in some memory. Exit code 0: it does, 1: it does not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def run(a: argparse.Namespace) -> int:
    from graphllm.cli.choices import compile_choices
    from graphllm.compiler.options import Options
    from graphllm.compiler.targets import resolve_device, target_of
    from graphllm.frontends.overrides import NO_OVERRIDES
    from graphllm.measure.fit.check import Ask, check
    from graphllm.measure.fit.footprint import Setting
    from graphllm.measure.fit.room import room_of
    from graphllm.measure.fit.sizes import bytes_of
    from graphllm.measure.fit.text import fit_text

    device, number, _ = resolve_device(a.device)
    choices = compile_choices(a)
    options = Options(
        dtype=choices["dtype"], quantize=choices["quantize"], overrides=choices["overrides"] or NO_OVERRIDES
    )
    setting = Setting(threads=a.threads, expand=a.expand)
    ask = Ask(target_of(device), setting, a.context, a.slots, choices["kv_dtype"], options)
    room = bytes_of(a.memory, "--memory") if a.memory is not None else room_of(device, number)
    fit = check(Path(a.model), ask, room)
    print(json.dumps(fit.as_json(), indent=1) if a.json else fit_text(fit))
    return 0 if fit.fits else 1
