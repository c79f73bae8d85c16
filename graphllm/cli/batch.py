"""``graphllm batch``: a file of prompts answered, many at once, into a file of answers."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphllm.cli.choices import sampler_choices, stop_choices
from graphllm.cli.loading import load_model
from graphllm.cli.template import template_choice, variables_choice
from graphllm.cli.terminal import Meter, say

if TYPE_CHECKING:
    from graphllm.runtime.chat.format import ChatFormat

SLOTS = 4  # prompts at once where nothing is said


def run(a: argparse.Namespace) -> int:
    from graphllm.api.batch_file import BatchFile
    from graphllm.api.chat import format_for

    a.slots = a.slots or SLOTS
    settings: dict[str, Any] = {
        "max_tokens": None if a.max_tokens == -1 else a.max_tokens,
        "stop": stop_choices(a),
        "ignore_eos": a.ignore_eos,
        "echo": a.echo,
        "logprobs": a.logprobs,
        **sampler_choices(a),
    }
    template, variables = template_choice(a.template), variables_choice(a.set)
    with Meter(quiet=a.quiet) as meter:
        model = load_model(a, meter)

        @cache
        def format() -> ChatFormat:
            return format_for(model, template, variables)

        batch = BatchFile(model, Path(a.input), Path(a.output), settings, format, say)
        try:
            done = batch.run(meter)
        except KeyboardInterrupt:
            say(f"interrupted; {a.output} has every answer that was complete, and the same command goes on")
            return 130
    if not a.quiet:
        found = f", {done.found} were there" if done.found else ""
        refused = f", {done.refused} could not be answered: see their errors" if done.refused else ""
        say(f"{a.output}: {done.answered} answered{found}{refused}")
    return 1 if done.refused else 0
