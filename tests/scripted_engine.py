"""An engine that says what a script tells it, and answers from any engine as one list of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphllm.ir.core import Module
from graphllm.runtime.batch import Request, complete, numbered
from graphllm.runtime.device import Logits, Row
from graphllm.runtime.engine import Engine
from graphllm.runtime.generate import Progress, generate_tokens
from graphllm.runtime.null_device import NullDevice
from graphllm.runtime.sampling import Sampler, SamplerConfig
from tests.lowered_models import lowered

GREEDY = SamplerConfig()
NEVER = frozenset[int]()


class Scripted(NullDevice):
    """Checks every step, and likes best what a script says comes at the next position of a slot."""

    def __init__(self, module: Module, scripts: Mapping[int, Sequence[int]]) -> None:
        super().__init__(module)
        self.scripts = scripts

    def _say(self, logits: Logits, rows: Sequence[tuple[int, int]]) -> Logits:
        for row, (position, slot) in zip(logits.reshape(-1, logits.shape[-1]), rows, strict=False):
            script = self.scripts.get(slot, ())
            row[script[position + 1] if position + 1 < len(script) else 0] = 9.0
        return logits

    def row(self, token: int, position: int, slot: int) -> Logits:
        return self._say(super().row(token, position, slot), [(position, slot)])

    def rows(self, function: str, rows: Sequence[Row]) -> Logits:
        return self._say(super().rows(function, rows), [(r.position, r.slot) for r in rows])

    def block(self, function: str, tokens: Sequence[int], start: int, slot: int) -> Logits:
        return self._say(super().block(function, tokens, start, slot), [(start + len(tokens) - 1, slot)])


def scripted(*scripts: Sequence[int]) -> Engine:
    module = lowered("plain").module
    return Engine(Scripted(module, dict(enumerate(scripts))), module)


def answer(
    e: Engine,
    prompt: Sequence[int],
    max_tokens: int | None = 10,
    stop_ids: frozenset[int] = NEVER,
    config: SamplerConfig = GREEDY,
    slot: int = 0,
) -> Progress:
    progress = Progress()
    sampler = Sampler(config, e.vocab, e.vocab)
    said = list(
        generate_tokens(e, prompt, sampler, max_tokens=max_tokens, stop_ids=stop_ids, progress=progress, slot=slot)
    )
    assert said == progress.tokens
    return progress


def batch(e: Engine, prompts: Sequence[Sequence[int]], max_tokens: int | None = 10, **more: Any) -> list[Progress]:
    options: dict[str, Any] = {"config": GREEDY, "stop_ids": NEVER} | more
    config, allowed = options.pop("config"), options.pop("allowed", e.vocab)
    asked = [
        Request(prompt, Sampler(numbered(config, i), e.vocab, allowed), max_tokens, **options)
        for i, prompt in enumerate(prompts)
    ]
    return [progress for _, progress in sorted(complete(e, asked), key=lambda pair: pair[0])]
