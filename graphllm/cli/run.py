"""``graphllm run``: a prompt continued, streamed as it is generated."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING

from graphllm.cli.choices import load_choices, sampler_choices, stop_choices
from graphllm.cli.input import argument, read_text
from graphllm.cli.terminal import Meter, say
from graphllm.errors import RunError

if TYPE_CHECKING:
    from graphllm.api import Answer, Model


def run(a: argparse.Namespace) -> int:
    from graphllm import api

    prompt = _prompt(a)
    started = time.perf_counter()
    with Meter() as meter:
        model = api.load(
            a.model,
            device=a.device,
            threads=a.threads,
            expand=a.expand,
            trust_code=a.trust_code,
            progress=meter,
            say=say,
            **load_choices(a),
        )
        limit = None if a.max_tokens == -1 else a.max_tokens
        answer = model.stream(
            prompt,
            max_tokens=limit,
            stop=stop_choices(a),
            ignore_eos=a.ignore_eos,
            logprobs=a.logprobs,
            **sampler_choices(a),
        )
        model.engine.check(answer.prompt_ids)  # before any of it is printed
    ready = time.perf_counter() - started
    interrupted = False
    text: list[str] = []
    try:
        if a.json:
            text.extend(answer)
        elif isinstance(prompt, str):
            _print_text(answer, "" if a.no_echo else _echo(model, answer.prompt_ids))
        else:
            _print_ids(answer)
    except KeyboardInterrupt:
        interrupted = True
    if a.json:
        _print_json(model, answer, "".join(text))
    else:
        print(flush=True)
        _print_logprobs(model, answer)
    if answer.progress.finish == "context" and not interrupted:
        say(f"stopped: the context of {model.engine.context} positions is full; --context makes it larger")
    if a.stats:
        _print_stats(model, answer, ready, sampled=a.temperature > 0)
    return 130 if interrupted else 0


def _prompt(a: argparse.Namespace) -> str | list[int]:
    if a.ids is not None:
        return ids_of(a.ids)
    if a.prompt is not None:
        return argument(a.prompt, "prompt")
    if a.file is None and sys.stdin.isatty():
        raise RunError("prompt: none given; use -p TEXT, -f FILE, --ids IDS, or pipe it in")
    return read_text(a.file or "-", "prompt").rstrip("\r\n")  # every editor ends a file with one


def ids_of(text: str) -> list[int]:
    """Token ids of the command line. Raises RunError."""
    try:
        return [int(i) for i in text.replace(",", " ").split()]
    except ValueError:
        raise RunError(f"--ids {text!r}: expected whole numbers, as in --ids '1 403 407'") from None


def _echo(model: Model, ids: list[int]) -> str:
    assert model.tokenizer is not None
    return model.tokenizer.decode(ids)


def _print_text(answer: Answer, echo: str) -> None:
    out = sys.stdout
    out.write(echo)
    out.flush()
    for piece in answer:
        out.write(piece)
        out.flush()


def _print_ids(answer: Answer) -> None:
    for i, token in enumerate(answer.tokens()):
        print(f" {token}" if i else token, end="", flush=True)


def _print_json(model: Model, answer: Answer, text: str) -> None:
    from graphllm.api.answer import Completion
    from graphllm.api.record import record_of

    p = answer.progress
    whole = Completion(text, tuple(p.tokens), p.finish, p.prompt_tokens, answer.seed, tuple(p.logprobs))
    record = record_of(whole, model.tokenizer, logprobs=bool(p.logprobs))
    record |= {
        "prompt_ids": answer.prompt_ids,
        "prefill_seconds": p.prefill_seconds,
        "decode_seconds": p.decode_seconds,
    }
    print(json.dumps(record, ensure_ascii=False), flush=True)


def _print_logprobs(model: Model, answer: Answer) -> None:
    """A line for each token on stderr: its log-probability and the likeliest tokens in its place."""

    def named(token: int) -> str:
        return repr(model.tokenizer.piece(token)) if model.tokenizer is not None else str(token)

    for one in answer.progress.logprobs:
        top = "  ".join(f"{named(token)} {logprob:.4f}" for token, logprob in one.top)
        say(f"{one.logprob:9.4f}  {named(one.token)}" + (f"   of {top}" if top else ""))


def _print_stats(model: Model, answer: Answer, ready: float, *, sampled: bool) -> None:
    p, m = answer.progress, model.engine.device.memory
    seed = f"seed {answer.seed} · " if sampled else ""
    say(
        f"prompt {p.prompt_tokens} tokens, {p.prefill_speed:.1f} tok/s · "
        f"answer {len(p.tokens)}, {p.decode_speed:.1f} tok/s"
    )
    say(
        f"ready in {ready:.2f} s · weights {m.weights / 1e6:.1f} MB ({m.mapped / 1e6:.1f} mapped) · "
        f"arena {m.arena / 1e6:.2f} MB · KV {m.states / 1e6:.2f} MB · {seed}ended by {p.finish}"
    )
