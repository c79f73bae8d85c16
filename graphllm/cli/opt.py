"""``graphllm opt``: text IR through passes, so that every bug becomes a ten-line file."""

from __future__ import annotations

import argparse
from importlib import import_module

from graphllm.cli.choices import quantization
from graphllm.cli.input import read_text
from graphllm.cli.output import write_text
from graphllm.cli.terminal import say
from graphllm.errors import PassError
from graphllm.plan.place import shown


def run(a: argparse.Namespace) -> int:
    from graphllm.compiler.backends import BACKENDS
    from graphllm.ir.parser import parse_module
    from graphllm.ir.printer import print_module
    from graphllm.ir.verifier import verify
    from graphllm.passes.manager import run_passes
    from graphllm.passes.pipeline import by_name

    a.quantize = "int8-dynamic"  # so that the passes of either mode are known
    known = by_name(BACKENDS[a.target].target, a.dtype, quantization(a))
    if a.list:
        for name in known:
            first = import_module(f"graphllm.passes.{name.replace('-', '_')}").__doc__ or ""
            print(f"{name:18} {first.split(chr(10) * 2)[0].replace(chr(10), ' ')}")
        return 0
    names = [n for n in a.passes.split(",") if n]
    unknown = [n for n in names if n not in known]
    if unknown:
        raise PassError(f"--passes: unknown pass {unknown[0]}; known ones are {', '.join(known)}")
    module = parse_module(read_text(a.input, "text IR"), "<stdin>" if a.input == "-" else shown(a.input))
    verify(module)
    module, reports = run_passes(module, [known[n] for n in names])
    if a.time:
        for r in reports:
            did = f"{r.rewrites} operations rewritten" if r.changed else "nothing to do"
            say(f"{r.name:18} {r.milliseconds:8.2f} ms  {did}; {r.ops} ops, {r.kernels} kernels, arena {r.arena} bytes")
    if a.verify:
        say(f"verified: the input, and what each of {len(reports)} passes left")
    write_text(a.output, print_module(module))
    return 0
