"""The command line: one subcommand a module, no logic of its own.

A user's mistake is one line on stderr and exit code 2; an interruption is 130. Heavy imports happen in the subcommand
that needs them, so that ``graphllm --help`` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from graphllm.cli.arguments import build_parser
from graphllm.cli.generation_arguments import llama2c_words
from graphllm.cli.process import discard_output, open_streams, unwind_on_signals
from graphllm.cli.terminal import complain, say
from graphllm.errors import GraphLLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 0 done, 2 a mistake in what was asked or given, 130 interrupted."""
    open_streams()
    unwind_on_signals()
    try:
        return _command(argv)
    except GraphLLMError as error:
        complain(error)
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except BrokenPipeError:
        discard_output()  # the reader of our output went away, as `head` does
        return 0
    except OSError as error:
        # What is read and written by name is refused by name where that happens; left are our output and the system.
        discard_output()
        what = error.filename if error.filename is not None else "output"
        say(f"{what}: refused by the system; {error.strerror or error}")
    except MemoryError:
        say("memory: this machine has too little for what was asked; see graphllm show")
    return 2


def _command(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if (theirs := llama2c_words(words)) is not None:
        return _run("llama2c", theirs)
    parser = build_parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit:
        sys.stdout.flush()  # --help and --version end here; not at exit, where a full disk would be a second error
        raise
    if arguments.command is None:
        parser.print_help()
        code = 0
    else:
        code = _run(arguments.command.replace("-", "_"), arguments)
    sys.stdout.flush()
    return code


def _run(module: str, arguments: object) -> int:
    from graphllm.cli.panic_pages import without_panic_pages

    with without_panic_pages():
        return import_module(f"graphllm.cli.{module}").run(arguments)
