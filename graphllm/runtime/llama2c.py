"""llama2.c's ``run``, as it generates and prints: the same loop, the same stop, the same bytes.

It differs where nobody could want it: prompts are taken in chunks, buffers do not overflow, and the end of the input
ends a chat. Its sampler is `sampling.variants`'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from graphllm.errors import RunError
from graphllm.runtime.device import Logits
from graphllm.runtime.engine import Engine
from graphllm.runtime.sampling import TokenChooser
from graphllm.runtime.tokenizer import Tokenizer


@dataclass(slots=True)
class Clock:
    """Positions passed, and since when: run.c starts its clock behind the first."""

    positions: int = 0
    started: float = field(default=0.0)

    def speed(self) -> float | None:
        """Tokens a second, None for one token or none."""
        seconds = time.perf_counter() - self.started
        return (self.positions - 1) / max(seconds, 1e-9) if self.positions > 1 else None


def generate(
    engine: Engine, tokenizer: Tokenizer, sampler: TokenChooser, prompt: str, steps: int, clock: Clock
) -> Iterator[bytes]:
    """What run.c prints for a prompt: the prompt and what follows, ``steps`` positions in all or until BOS comes.

    Raises RunError for a prompt of no tokens, and like ``Engine.feed``.
    """
    ids = _encode(tokenizer, prompt)
    history = list(ids[:1])
    logits: Logits | None = engine.step(ids[0])
    clock.positions, clock.started = 1, time.perf_counter()
    given = ids[1:steps]  # the rest of a prompt that is longer is never looked at
    for token in given:
        yield _piece(tokenizer, history[-1], token)
        history.append(token)
    if given:
        logits = engine.feed(given)
        clock.positions = len(ids[:steps])
    if len(ids) > steps:
        # run.c prints the token that it would feed next
        yield _piece(tokenizer, history[-1], ids[steps])
        return
    while True:
        assert logits is not None
        token = sampler.sample(logits, history)
        if token == tokenizer.bos_id:
            return
        yield _piece(tokenizer, history[-1], token)
        history.append(token)
        if clock.positions >= steps:
            return
        logits = engine.step(token)
        clock.positions += 1


def chat(
    engine: Engine,
    tokenizer: Tokenizer,
    sampler: TokenChooser,
    ask: Callable[[str], str | None],
    prompt: str | None,
    system: str | None,
    steps: int,
) -> Iterator[bytes]:
    """What run.c prints in a chat, without what ``ask`` prints: it shows a text and gives a line, None at the end.

    run.c draws a number for every position of a prompt, too, so a seed gives the same answers only if they are drawn.
    """
    eos = next(iter(tokenizer.eos_ids), None)
    position = index = 0
    ids: list[int] = []
    following = -1
    choices: Iterator[int] = iter(())
    users_turn = True
    while position < steps:
        if users_turn:
            if not position and system is None and (system := ask("Enter system prompt (optional): ")) is None:
                return
            line = prompt if not position and prompt is not None else ask("User: ")
            if line is None:
                return
            opening = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if not position and system else ""
            ids, index, users_turn = _encode(tokenizer, f"[INST] {opening}{line} [/INST]"), 0, False
            choices = _prompt_choices(engine, sampler, ids[: steps - position])
            yield b"Assistant: "
        if index < len(ids):
            token, following = ids[index], next(choices)
            index += 1
        else:
            token = following
            users_turn = token == eos  # which is fed all the same, and what the model says to it is printed
            following = sampler.sample(engine.step(token), ())
        position += 1
        if index == len(ids) and following != eos:
            yield _piece(tokenizer, token, following)
        if following == eos:
            yield b"\n"


def _prompt_choices(engine: Engine, sampler: TokenChooser, ids: list[int]) -> Iterator[int]:
    """What the sampler says after each token of a prompt."""
    for block in engine.score(ids):
        for row in block:
            yield sampler.sample(row, ())


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids = tokenizer.encode(text, bos=tokenizer.bos_id is not None, special=False)
    if not ids:
        raise RunError("prompt: no tokens; expected at least one")
    return ids


def _piece(tokenizer: Tokenizer, previous: int, token: int) -> bytes:
    """The bytes run.c prints for a token: no space behind BOS, and no single byte that is not printable ASCII."""
    data = tokenizer.bytes_of(token, skip_special=False)
    if token == tokenizer.bos_id or token in tokenizer.eos_ids:
        data = b"\n" + data + b"\n"  # as export writes them into tokenizer.bin
    if previous == tokenizer.bos_id and data.startswith(b" "):
        data = data[1:]
    if len(data) == 1 and not (0x20 <= data[0] < 0x7F or data[0] in b"\t\n\v\f\r"):
        return b""
    return data
