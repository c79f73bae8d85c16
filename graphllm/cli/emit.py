"""``graphllm emit``: a plan as a C++ program of its own."""

from __future__ import annotations

import argparse

from graphllm.cli.terminal import Meter, say


def run(a: argparse.Namespace) -> int:
    from graphllm.api.emit import emit
    from graphllm.plan.place import shown

    kv_dtype = "i8" if a.kv == "int8" else a.kv
    with Meter(quiet=a.quiet) as meter:
        folder = emit(a.plan, a.output, target=a.target, context=a.context, kv_dtype=kv_dtype, progress=meter, say=say)
    if not a.quiet:
        print(f"written: {shown(folder)}; make -C {shown(folder)} && {shown(folder)}/generate --help")
    return 0
