"""``graphllm diff``: two ways of computing a model side by side. Exit code 0: they agree, 1: they part."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphllm.measure.diff.run import Difference
    from graphllm.measure.diff.sides import How, Subject


_TOKENS = 32  # that both sides run on, unless told


def run(a: argparse.Namespace) -> int:
    from graphllm.cli.choices import load_choices
    from graphllm.cli.terminal import say
    from graphllm.errors import GraphLLMError
    from graphllm.measure.diff.dump import write_dump
    from graphllm.measure.diff.run import difference
    from graphllm.measure.diff.sides import INTERPRETER, How, open_subject, reference, side

    if len(a.sides) > 2:
        raise GraphLLMError(f"diff: {len(a.sides)} sides; expected one, against the interpreter, or two")
    choices = load_choices(a)
    if a.bisect == "passes":
        return _passes(a, choices)
    subject = open_subject(a.model, **choices)
    how = How(_ids(a, subject), a.function, a.threads, a.expand, say)
    if a.bisect == "weights":
        return _weights(a, subject, how)
    if not a.sides:
        if a.dump is None:
            raise GraphLLMError("diff: nothing to compare with; expected a side (graphllm diff --help), or --dump DIR")
        count = write_dump(side(INTERPRETER, subject, how).run(False), Path(a.dump), subject.config.head_dim)
        print(f"{a.dump}: {count} arrays")
        return 0
    *first, right = (side(word, subject, how) for word in a.sides)
    left = first[0] if first else reference(subject, right, how)
    found = difference(left, right, subject.config.head_dim, a.tolerance)
    if a.dump is not None:
        for trace in found.traces:
            count = write_dump(trace, Path(a.dump) / trace.name.replace("/", "_"), subject.config.head_dim)
            say(f"{a.dump}/{trace.name}: {count} arrays")
    if a.plot is not None:
        from graphllm.measure.diff.plot import write_plot

        write_plot(found, Path(a.plot))
    _print(a, found)
    return 1 if found.found.parted is not None else 0


def _print(a: argparse.Namespace, found: Difference) -> None:
    from graphllm.measure.diff.text import difference_text

    print(json.dumps(found.as_json(), indent=1) if a.json else difference_text(found, every=a.all))


def _ids(a: argparse.Namespace, subject: Subject | None) -> list[int]:
    """The tokens both sides run on: those given, or random ones from a fixed seed."""
    from graphllm.cli.input import read_text
    from graphllm.cli.run import ids_of
    from graphllm.errors import RunError
    from graphllm.runtime.tokenizer import load_tokenizer

    if a.ids is not None:
        return ids_of(a.ids)
    assert subject is not None
    if a.prompt is None and a.file is None:
        from random import Random

        context = next(iter(subject.module.states.values())).type.shape[2]
        count = a.tokens if a.tokens is not None else min(_TOKENS, context)
        random = Random(0)
        return [random.randrange(subject.config.vocab) for _ in range(count)]
    if subject.file.tokenizer is None:
        raise RunError("prompt: this plan has no tokenizer; give token ids with --ids")
    text = a.prompt if a.prompt is not None else read_text(a.file, "prompt").rstrip("\r\n")
    ids = load_tokenizer(subject.file.tokenizer, subject.config.vocab).encode(text)
    if a.file is None:
        return ids
    return ids[: a.tokens if a.tokens is not None else _TOKENS]


def _passes(a: argparse.Namespace, choices: dict[str, Any]) -> int:
    from graphllm.api import chosen_options
    from graphllm.api.source import source_of
    from graphllm.errors import GraphLLMError
    from graphllm.measure.diff.bisect import bisect_passes
    from graphllm.measure.diff.text import passes_text
    from graphllm.plan.plan_file import is_plan

    source = source_of(a.model)
    if is_plan(source):
        raise GraphLLMError(f"{source}: a plan; bisecting passes starts from a checkpoint, whose weights are unchanged")
    context, slots, kv_dtype = choices["context"], choices["slots"] or 1, choices["kv_dtype"]
    how = choices["dtype"], choices["quantize"], choices["overrides"]
    options = chosen_options(context, slots, kv_dtype, *how, None)
    ids = _ids(a, None) if a.ids is not None else list(range(1, (a.tokens if a.tokens is not None else 16) + 1))
    steps = bisect_passes(source, options, ids, a.function)
    print(json.dumps([s.as_json() for s in steps], indent=1) if a.json else passes_text(steps))
    return 1 if steps and steps[-1].found.parted is not None else 0


def _weights(a: argparse.Namespace, subject: Subject, how: How) -> int:
    from dataclasses import asdict

    from graphllm.errors import GraphLLMError
    from graphllm.measure.diff.bisect import bisect_weights
    from graphllm.measure.diff.compare import FINEST
    from graphllm.measure.diff.sides import open_subject
    from graphllm.measure.diff.text import weights_text

    if len(a.sides) != 1:
        raise GraphLLMError("--bisect weights: expected one other plan or checkpoint, whose weights are put in")
    other = open_subject(a.sides[0])
    found = bisect_weights(subject, other, how.ids, how.kind, a.tolerance or FINEST)
    print(json.dumps([asdict(e) for e in found], indent=1) if a.json else weights_text(found, subject, other))
    return 1 if found else 0
