"""The command line: one subcommand a module, no logic of its own.

A user's mistake is one line on stderr and exit code 2; an interruption is 130. Heavy imports happen in the subcommand
that needs them, so that ``graphllm --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from graphllm.cli.arguments import build_parser
from graphllm.errors import GraphLLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0 done, 2 a mistake in what was asked or given, 130 interrupted."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        command = import_module(f"graphllm.cli.{arguments.command.replace('-', '_')}")
        code: int = command.run(arguments)
        sys.stdout.flush()
        return code
    except GraphLLMError as error:
        print(f"graphllm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("graphllm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of our output went away, as `head` does; a second complaint at exit would be noise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("graphllm: memory: this machine has too little for what was asked; see graphllm show", file=sys.stderr)
        return 2
