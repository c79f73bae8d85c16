"""What the command evaluates: a text, token ids, or questions; alone or against another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graphllm.api import Model
from graphllm.errors import GraphLLMError, RunError
from graphllm.measure.evaluate.perplexity import Perplexity, perplexity
from graphllm.measure.evaluate.token_file import read_tokens
from graphllm.plan.place import refusal, shown

Bos = Literal["auto", "yes", "no"]
DEFAULT_WINDOW = 512
Done = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Cut:
    """How a text is cut: 0 for a window of 512 or the context, and for a stride of the window; ``limit`` tokens."""

    window: int = 0
    stride: int = 0
    bos: Bos = "auto"
    limit: int = 0


def evaluate_text(
    model: Model, file: Path, how: Cut, *, tokens: bool, against: Model | None, done: Done = lambda what, n, total: None
) -> Perplexity:
    """Perplexity on a text or token file; with ``against``, also how far from that model.

    BOS ``auto``: in front of windows of a text where the tokenizer puts one in front of prompts; not of token files.

    Raises:
        GraphLLMError: the file cannot be read or is empty, the models do not cut the text alike, or what
            ``perplexity`` refuses.
    """
    ids = read_tokens(file, how.limit) if tokens else _encoded(model, file, how.limit, against)
    window = how.window or min(DEFAULT_WINDOW, model.engine.context, against.engine.context if against else 1 << 30)
    return perplexity(
        model.engine,
        ids,
        window=window,
        stride=how.stride or window,
        bos=_bos(model, how.bos, tokens=tokens),
        reference=against.engine if against is not None else None,
        done=lambda n, total: done("tokens", n, total),
    )


def _encoded(model: Model, file: Path, limit: int, against: Model | None) -> list[int]:
    where = shown(file)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise GraphLLMError(f"{where}: cannot be read; {refusal(error)}") from None
    except UnicodeDecodeError as error:
        raise GraphLLMError(f"{where}: not UTF-8 at byte {error.start}; expected text, or --tokens") from None
    if not text.strip():
        raise GraphLLMError(f"{where}: no text in it")
    both: list[list[int]] = []
    for one in (model, against) if against is not None else (model,):
        if one.tokenizer is None:
            raise RunError(f"{one.plan.path}: this plan has no tokenizer; give token ids with --tokens")
        both.append(one.tokenizer.encode(text, bos=False))
    first, *rest = both
    if any(ids != first for ids in rest):
        at = next((i for i, (a, b) in enumerate(zip(*both, strict=False)) if a != b), min(map(len, both)))
        raise GraphLLMError(
            f"{where}: the two models cut it differently, from token {at} on; expected plans of one tokenizer"
        )
    return first[:limit] if limit else first


def _bos(model: Model, wanted: Bos, *, tokens: bool) -> int | None:
    tokenizer = model.tokenizer
    recorded = model.plan.config.get("bos_id")
    known = recorded if type(recorded) is int else tokenizer.bos_id if tokenizer is not None else None
    if wanted == "no" or (wanted == "auto" and tokens):
        return None
    if wanted == "auto":
        begun = tokenizer.encode("a")[:1] if tokenizer is not None else []
        return known if begun == [known] else None
    if known is None:
        raise RunError("--bos yes: neither the model nor its tokenizer has a BOS token")
    return known
