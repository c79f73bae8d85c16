"""``graphllm completion``: a script that teaches a shell the commands and options."""

from __future__ import annotations

import argparse


def run(a: argparse.Namespace) -> int:
    import shtab

    from graphllm.cli.arguments import build_parser

    print(shtab.complete(build_parser(), shell=a.shell))
    return 0
