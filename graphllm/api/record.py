"""Answers as JSON: what ``run --json`` prints and ``batch`` writes, a line each."""

from __future__ import annotations

from typing import Any

from graphllm.api.answer import Completion
from graphllm.runtime.logprobs import TokenLogprob
from graphllm.runtime.tokenizer import Tokenizer


def record_of(answer: Completion, tokenizer: Tokenizer | None, *, logprobs: bool) -> dict[str, Any]:
    """An answer as JSON values: text, tokens, finish, prompt_tokens, seed, and logprobs where they were asked for."""
    record: dict[str, Any] = {
        "text": answer.text,
        "tokens": list(answer.tokens),
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "seed": answer.seed,
    }
    if logprobs:
        record["logprobs"] = [_logprob(one, tokenizer) for one in answer.logprobs]
    return record


def _logprob(one: TokenLogprob, tokenizer: Tokenizer | None) -> dict[str, Any]:
    top = [_named(token, tokenizer) | {"logprob": logprob} for token, logprob in one.top]
    return _named(one.token, tokenizer) | {"logprob": one.logprob} | ({"top": top} if top else {})


def _named(token: int, tokenizer: Tokenizer | None) -> dict[str, Any]:
    return {"token": token} | ({"text": tokenizer.piece(token)} if tokenizer is not None else {})
