"""Options of the commands that generate text."""

from __future__ import annotations

import argparse

from graphllm.cli.shared_arguments import (
    add_device,
    add_ends,
    add_logprobs,
    add_model,
    add_model_options,
    add_sampling,
    add_template,
)


def llama2c_words(words: list[str]) -> list[str] | None:
    """What llama2.c's own options are, where a command line asks for its ways: letters mean other things there."""
    if words[:1] != ["run"]:
        return None
    for i, word in enumerate(words):
        if word == "--compat=llama2.c":
            return words[1:i] + words[i + 1 :]
        if words[i : i + 2] == ["--compat", "llama2.c"]:
            return words[1:i] + words[i + 2 :]
    return None


def add_run(p: argparse.ArgumentParser) -> None:
    p.description = (
        "Continue a prompt, streaming. The model is a plan, or a checkpoint, which is then compiled once and kept. "
        "Without -p, -f or --ids the prompt is read from standard input."
    )
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    p.add_argument(
        "--compat", choices=["llama2.c"], help="behave as llama2.c's run: its options -t -p -s -n -i -z -m -y instead"
    )
    _generation(p, 0.0, 256)


def add_demo(p: argparse.ArgumentParser) -> None:
    p.description = "A story by the model that comes with graphllm. Takes what run takes; the prompt may be left out."
    _generation(p, 0.7, 400)


def add_chat(p: argparse.ArgumentParser) -> None:
    p.description = (
        "A dialogue. With a terminal, lines are edited and remembered and /help tells the commands; from a pipe, each "
        "line is a message."
    )
    add_model(p, "model", "a plan or a checkpoint with a chat template, or see --template")
    p.add_argument("--system", metavar="TEXT", help="what the model is told first")
    add_template(p)
    p.add_argument("--load", metavar="FILE", help="go on with a chat that /save has saved")
    add_ends(p, -1, "default: until the model ends it")
    p.add_argument("--stats", action="store_true", help="what each answer took, on stderr")
    p.add_argument("--no-history", action="store_true", help="neither read nor keep what was typed in other chats")
    add_device(p)
    add_sampling(p, None)
    add_model_options(p)


def add_batch(p: argparse.ArgumentParser) -> None:
    p.description = (
        'Each line of the input is a text, or an object with "prompt", "ids" or "messages", an "id", and settings of '
        "its own. Each answer is a line of the output. When it was interrupted, the same command goes on. Exit code 1: "
        "some lines could not be answered; the output says why."
    )
    add_model(p, "model", "a plan or a checkpoint; demo: our own")
    p.add_argument("input", help="a file of JSON lines")
    p.add_argument("-o", "--output", required=True, metavar="FILE", help="the file of answers, new or to go on with")
    add_ends(p, 256)
    p.add_argument("--ignore-eos", action="store_true", help="go on past end tokens")
    p.add_argument("--echo", action="store_true", help="the prompt is part of the answer")
    p.add_argument("-q", "--quiet", action="store_true", help="no progress, no last line")
    add_logprobs(p)
    add_template(p)
    add_device(p)
    add_sampling(p, 0.0)
    add_model_options(p)


def _generation(p: argparse.ArgumentParser, temperature: float, max_tokens: int) -> None:
    prompt = p.add_mutually_exclusive_group()
    prompt.add_argument("-p", "--prompt", metavar="TEXT")
    prompt.add_argument("-f", "--file", metavar="FILE", help="read the prompt from a UTF-8 file, less its last newline")
    prompt.add_argument("--ids", metavar="IDS", help='token ids instead of text, "1 403 407"; ids are printed')
    add_ends(p, max_tokens)
    p.add_argument("--ignore-eos", action="store_true", help="go on past end tokens")
    p.add_argument("--no-echo", action="store_true", help="print the answer without the prompt")
    p.add_argument("--stats", action="store_true", help="print speeds and memory on stderr at the end")
    p.add_argument("--json", action="store_true", help="print the answer as one JSON object when it is complete")
    add_logprobs(p)
    add_device(p)
    add_sampling(p, temperature)
    add_model_options(p)
