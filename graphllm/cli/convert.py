"""``graphllm convert``: a checkpoint in the format of another program."""

from __future__ import annotations

import argparse

from graphllm.cli.choices import overrides
from graphllm.cli.terminal import Meter, say


def run(a: argparse.Namespace) -> int:
    from pathlib import Path

    from graphllm.api.source import source_of
    from graphllm.compiler.convert import Conversion, convert
    from graphllm.frontends.overrides import NO_OVERRIDES
    from graphllm.plan.place import shown, size_text

    how = Conversion(a.to, a.group_size, a.dtype, a.rows, overrides(a) or NO_OVERRIDES)
    tokenizer = Path(a.tokenizer) if a.tokenizer is not None else None
    with Meter(quiet=a.quiet) as meter:
        made = convert(source_of(a.checkpoint), Path(a.output), how, tokenizer, meter)
    for note in made.notes:
        say(f"note: {note}")
    if not a.quiet:
        print(f"written: {shown(made.path)}, {size_text(made.bytes)}")
    return 0
