"""``graphllm convert``: a checkpoint in the format of another program."""

from __future__ import annotations

import argparse
from typing import Any

from graphllm.cli.choices import overrides
from graphllm.cli.terminal import Meter, say


def run(a: argparse.Namespace) -> int:
    from graphllm.api.convert import convert
    from graphllm.plan.place import shown, size_text

    how: dict[str, Any] = {"group": a.group_size, "dtype": a.dtype, "rows": a.rows, "tokenizer": a.tokenizer}
    with Meter(quiet=a.quiet) as meter:
        made = convert(a.checkpoint, a.output, a.to, overrides=overrides(a), progress=meter, **how)
    for note in made.notes:
        say(f"note: {note}")
    if not a.quiet:
        print(f"written: {shown(made.path)}, {size_text(made.bytes)}")
    return 0
