"""``graphllm report``: one page about a plan, or about two and their differences."""

from __future__ import annotations

import argparse
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from graphllm.cli.choices import seen_options
from graphllm.cli.input import read_text
from graphllm.cli.output import write_text
from graphllm.cli.terminal import say
from graphllm.errors import GraphLLMError

if TYPE_CHECKING:
    from graphllm.view.profile_data import Profile
    from graphllm.view.report.subject import Rates, Subject

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kMGT]?)(?:B|flop)?(?:/s)?")
_SCALE = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def run(a: argparse.Namespace) -> int:
    from graphllm.api.inspection import refuse_options
    from graphllm.api.report import report_html, report_subject
    from graphllm.api.source import source_of
    from graphllm.plan.place import shown, size_text
    from graphllm.plan.plan_file import is_plan
    from graphllm.runtime.cuda.arch import check_archs
    from graphllm.view.report.data import report_json

    names = [name for name in (a.model, a.other) if name is not None]
    output = a.output if a.output is not None or a.json else "report.html"
    for name in names:
        with suppress(OSError, ValueError):  # one of them is not there
            if output is not None and Path(output).samefile(source_of(name)):
                raise GraphLLMError(f"{output}: the model itself; expected another name for the report")
    profile = _profile(a.profile)
    rates = _rates(a, profile)
    arch = check_archs(a.resources)[0] if a.resources else ""
    subjects: list[Subject] = []
    for i, name in enumerate(names):
        source = source_of(name)
        options = seen_options(a, source, a.target)
        if is_plan(source):
            refuse_options(source, "a plan", options)
        own = profile if i == 0 else None
        subjects.append(report_subject(name, options, rates=rates, profile=own, arch=arch))
    if arch and all(s.target != "cuda" for s in subjects):
        raise GraphLLMError(f"--resources: {names[0]} is lowered for {subjects[0].target}; expected the target cuda")
    if a.json:
        write_text(output, json.dumps(report_json(subjects), ensure_ascii=True))
        return 0
    page = report_html(subjects)
    write_text(output, page)
    if output not in (None, "-"):
        say(f"written: {shown(output)}, {size_text(len(page))}; open it in a browser")
    return 0


def _profile(path: str | None) -> Profile | None:
    if path is None:
        return None
    from graphllm.view.profile_data import profile_from_json

    where = f"profile {path!r}"
    try:
        data: object = json.loads(read_text(path, "profile"))
    except (ValueError, RecursionError) as error:
        raise GraphLLMError(f"{where}: not JSON; {error}") from None
    return profile_from_json(data, where)


def _rates(a: argparse.Namespace, profile: Profile | None) -> Rates | None:
    """None where a profile says it, and nobody else does."""
    from graphllm.view.report.subject import Rates

    flops = rate("--flops", a.flops)
    if a.bandwidth != "measure":
        return Rates(rate("--bandwidth", a.bandwidth), flops, "as given")
    if profile is not None and not flops:
        return None
    from graphllm.measure.bandwidth import read_bandwidth

    found = read_bandwidth()
    return Rates(found.bytes_per_second, flops, f"reading measured here, {found.threads} threads, {found.how}")


def rate(name: str, text: str) -> float:
    """``40GB/s`` in units a second, 0 for none. Raises GraphLLMError for what is no rate."""
    if text == "none":
        return 0.0
    match = _RATE.fullmatch(text.strip())
    if match is None or not 0 < float(match[1]) < 1e9:
        raise GraphLLMError(f"{name} {text!r:.40}: expected a rate, as 40GB/s or 2Tflop/s, or none")
    return float(match[1]) * _SCALE[match[2]]
