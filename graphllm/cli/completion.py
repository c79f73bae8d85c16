"""``graphllm completion``: a script that teaches a shell the commands and options."""

from __future__ import annotations

import argparse
from typing import Final

# What completes a model: any file or folder, or the word for our own.
_PREAMBLE: Final = {
    "bash": '_graphllm_model() { compgen -f -- "$1"; compgen -W demo -- "$1"; }',
    "zsh": "_graphllm_model() { _files; compadd demo; }",
}


def run(a: argparse.Namespace) -> int:
    import shtab

    from graphllm.cli.arguments import build_parser

    print(shtab.complete(build_parser(), shell=a.shell, preamble=_PREAMBLE.get(a.shell, "")))
    return 0
