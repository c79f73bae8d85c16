"""``graphllm run --compat llama2.c``: the options of llama2.c's ``run``, with its defaults, clamps and exit codes."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from graphllm.cli.input import argument
from graphllm.cli.terminal import Meter, complain, say
from graphllm.errors import GraphLLMError

_FAILURE: Final = 1
_LETTERS: Final = "tpsnizmy"
_OURS: Final = ("--device", "--threads", "--kv")
_USAGE: Final = """\
Usage:   graphllm run <checkpoint> --compat llama2.c [options]
Example: graphllm run model.bin --compat llama2.c -n 256 -i "Once upon a time"
Options:
  -t <float>  temperature in [0,inf], default 1.0
  -p <float>  p value in top-p (nucleus) sampling in [0,1], default 0.9
  -s <int>    random seed, default time(NULL)
  -n <int>    number of steps to run for, default 256. 0 = max_seq_len
  -i <string> input prompt
  -z <string> path to a tokenizer, default: tokenizer.bin here, else the one beside the checkpoint
  -m <string> mode: generate|chat, default: generate
  -y <string> (optional) system prompt in chat mode
  --device NAME, --threads N, --kv f32|f16|int8 as without --compat; the cache is f32 by default
"""


@dataclass(slots=True)
class _Options:
    checkpoint: str
    given: dict[str, str]

    def real(self, letter: str, default: float) -> float:
        """What C's ``atof`` reads: the number a text begins with, or 0."""
        if letter not in self.given:
            return default
        number = re.match(r"\s*[+-]?(inf|nan|\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?)", self.given[letter], re.I)
        return float(number[0]) if number else 0.0

    def whole(self, letter: str, default: int) -> int:
        """What C's ``atoi`` reads."""
        if letter not in self.given:
            return default
        number = re.match(r"\s*[+-]?\d+", self.given[letter])
        return int(number[0][:40]) if number else 0


def run(words: list[str]) -> int:
    """Run it; 0, or 1 for whatever is wrong, as there."""
    options = _read(words)
    if options is None:
        sys.stderr.write(_USAGE)
        return _FAILURE
    try:
        return _run(options)
    except GraphLLMError as error:
        complain(error)
        return _FAILURE


def _read(words: list[str]) -> _Options | None:
    """Pairs of a letter and a value behind the checkpoint; None where they are not."""
    if not words or len(words) % 2 == 0:
        return None
    given: dict[str, str] = {}
    for name, value in zip(words[1::2], words[2::2], strict=True):
        if len(name) == 2 and name[0] == "-" and name[1] in _LETTERS:
            given[name[1]] = value
        elif name in _OURS:
            given[name] = value
        else:
            return None
    return _Options(words[0], given)


def _run(options: _Options) -> int:
    mode = options.given.get("m", "generate")
    if mode not in ("generate", "chat"):
        sys.stderr.write(f"unknown mode: {mode}\n{_USAGE}")
        return _FAILURE
    from graphllm.runtime import llama2c
    from graphllm.runtime.sampling import SamplerConfig, make_sampler

    temperature, top_p = options.real("t", 1.0), options.real("p", 0.9)
    if temperature != temperature:
        raise GraphLLMError("-t nan: expected a number, 0 or more")
    # an int in C, and taken for an unsigned one of 64 bits
    seed = (options.whole("s", 0) + (1 << 31)) % (1 << 32) - (1 << 31)
    config = SamplerConfig(
        temperature=min(max(temperature, 0.0), 1e6),
        top_p=top_p if 0 <= top_p <= 1 else 0.9,
        seed=(seed or int(time.time())) % (1 << 64),
        variant="llama2.c",
    )
    model = _load(options)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise GraphLLMError("tokenizer: there is no tokenizer.bin here and none with the model; name one with -z")
    context = model.engine.context
    steps = options.whole("n", 256)
    steps = context if steps <= 0 or steps > context else steps
    sampler = make_sampler(config, model.engine.vocab, model.allowed, model.engine.weigher)
    prompt = argument(options.given["i"], "-i") if "i" in options.given else None
    clock = llama2c.Clock()
    if mode == "generate":
        pieces = llama2c.generate(model.engine, tokenizer, sampler, prompt or "", steps, clock)
    else:
        system = argument(options.given["y"], "-y") if "y" in options.given else None
        pieces = llama2c.chat(model.engine, tokenizer, sampler, _ask, prompt, system, steps)
    out = sys.stdout.buffer
    for piece in pieces:
        out.write(piece)
        out.flush()
    out.write(b"\n")
    out.flush()
    if (speed := clock.speed()) is not None:
        sys.stderr.write(f"achieved tok/s: {speed:f}\n")
    return 0


def _load(options: _Options) -> Any:
    from graphllm import api

    here = Path("tokenizer.bin")
    tokenizer = options.given.get("z") or (here if here.is_file() else None)
    device = options.given.get("--device")
    threads, cache = options.given.get("--threads", "0"), options.given.get("--kv", "f32")
    if not threads.isdecimal() or len(threads) > 6:
        raise GraphLLMError(f"--threads {threads}: expected 0 or more")
    if cache not in ("f32", "f16", "int8"):
        raise GraphLLMError(f"--kv {cache}: expected f32, f16 or int8")
    kept: Any = "i8" if cache == "int8" else cache
    with Meter() as meter:
        return api.load(
            options.checkpoint,
            tokenizer=tokenizer,
            kv_dtype=kept,
            device=device,
            threads=int(threads),
            progress=meter,
            say=say,
        )


def _ask(shown: str) -> str | None:
    """A line of standard input, as run.c asks for it; None at the end."""
    sys.stdout.buffer.write(shown.encode())
    sys.stdout.buffer.flush()
    line = sys.stdin.buffer.readline(1 << 24)
    try:
        return line.decode("utf-8").rstrip("\n") if line else None
    except UnicodeDecodeError as error:
        raise GraphLLMError(f"message: not UTF-8 text; {error.reason} at byte {error.start}") from None
