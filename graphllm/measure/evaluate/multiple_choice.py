"""Multiple choice: which of some continuations a model finds likeliest after a prompt.

One question a line of JSON:

    {"prompt": "Lily has two cats and one", "choices": [" dog.", " sky."], "answer": 0}

Texts are joined as they are, so a choice carries its own leading space. Without a tokenizer both may be lists of ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from graphllm.api import Model
from graphllm.compiler.quality import log_softmax
from graphllm.errors import GraphLLMError, RunError
from graphllm.measure.evaluate.statistics import share_interval
from graphllm.plan.place import refusal, shown

Text = str | list[int]
MOST_CHOICES = 1000


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt, its continuations, the index of the right one, and where it stands."""

    prompt: Text
    choices: tuple[Text, ...]
    answer: int
    where: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Log probability of every choice, nats; what was picked by it, and by it over the choice's length."""

    answer: int
    log_probabilities: tuple[float, ...]
    picked: int
    picked_by_length: int


@dataclass(frozen=True, slots=True)
class Choices:
    """How many were right. By length: log probability over the choice's bytes, or its ids if given as ids."""

    questions: tuple[Scored, ...]

    @property
    def right(self) -> int:
        return sum(q.picked == q.answer for q in self.questions)

    @property
    def right_by_length(self) -> int:
        return sum(q.picked_by_length == q.answer for q in self.questions)

    def as_json(self) -> dict[str, Any]:
        n = len(self.questions)
        out: dict[str, Any] = {"questions": n}
        for name, hits in (("accuracy", self.right), ("accuracy_by_length", self.right_by_length)):
            out[name] = {"share": hits / n, "right": hits, "interval": list(share_interval(hits, n))}
        return out | {"each": [asdict(q) for q in self.questions]}


def read_questions(path: Path, limit: int = 0) -> list[Question]:
    """The questions of a JSONL file, at most ``limit`` unless that is 0. Raises GraphLLMError, naming the line."""
    where = shown(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise GraphLLMError(f"{where}: cannot be read; {refusal(error)}") from None
    except UnicodeDecodeError as error:
        raise GraphLLMError(f"{where}: not UTF-8 at byte {error.start}; expected JSON lines") from None
    out = [_question(line, f"{where}:{i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not out:
        raise GraphLLMError(f"{where}: no questions in it; expected a JSON object a line")
    return out[:limit] if limit else out


def _question(line: str, where: str) -> Question:
    try:
        data: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise GraphLLMError(f"{where}: not JSON; {str(error)[:60]}") from None
    record = cast("dict[str, object]", data) if isinstance(data, dict) else {}
    prompt, answer = record.get("prompt"), record.get("answer")
    raw = record.get("choices")
    choices = cast("list[object]", raw) if isinstance(raw, list) else []
    if not _is_text(prompt) or not 2 <= len(choices) <= MOST_CHOICES or not all(map(_is_text, choices)):
        raise GraphLLMError(
            f'{where}: expected {{"prompt": text, "choices": [text, …], "answer": index}} with 2 or more choices'
        )
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise GraphLLMError(
            f"{where}: answer; expected an index from 0 to {len(choices) - 1}, got {str(answer)[:20]!r}"
        )
    return Question(cast(Text, prompt), tuple(cast("list[Text]", choices)), answer, where)


def _is_text(value: object) -> bool:
    ids = cast("list[object]", value) if isinstance(value, list) else []
    return (isinstance(value, str) and value != "") or (bool(ids) and all(type(i) is int for i in ids))


def multiple_choice(
    model: Model, questions: Sequence[Question], done: Callable[[int, int], None] = lambda n, total: None
) -> Choices:
    """Score every choice of every question; slot 0 is used.

    Raises:
        RunError: a question that does not fit in the context, text for a plan without a tokenizer, an id outside the
            vocabulary.
    """
    out: list[Scored] = []
    for question in questions:
        scores = [_log_probability(model, question, choice) for choice in question.choices]
        sizes = [len(c.encode() if isinstance(c, str) else c) for c in question.choices]
        by_length = [score / size for score, size in zip(scores, sizes, strict=True)]
        picks = [max(range(len(s)), key=s.__getitem__) for s in (scores, by_length)]
        out.append(Scored(question.answer, tuple(scores), *picks))
        done(len(out), len(questions))
    return Choices(tuple(out))


def _log_probability(model: Model, question: Question, choice: Text) -> float:
    engine, where = model.engine, question.where
    try:
        given, whole = _joined(model, question.prompt, choice)
        if given == len(whole) or not given:
            raise RunError("a choice that adds no token to its prompt; expected some text after some text")
        engine.truncate(0)
        engine.check(whole)
        rows = log_softmax(engine.feed(whole[:given]).reshape(1, -1))
        total = float(rows[0, whole[given]])
        at = given + 1
        if at < len(whole):
            for block in engine.score(whole[given:-1]):
                p = log_softmax(block)
                for row in p:
                    total += float(row[whole[at]])
                    at += 1
    except RunError as error:
        raise RunError(f"{where}: {error}") from None
    if total != total:  # NaN
        raise RunError(f"{where}: the model's logits are not numbers; graphllm diff finds out why")
    return total


def _joined(model: Model, prompt: Text, choice: Text) -> tuple[int, list[int]]:
    """(how many ids are the prompt's, ids of both): a choice may change how the end of its prompt is cut."""
    if isinstance(prompt, list) and isinstance(choice, list):
        return len(prompt), prompt + choice
    if not isinstance(prompt, str) or not isinstance(choice, str):
        raise RunError("a prompt of ids with a choice of text, or the other way round; expected one kind")
    alone, whole = model.encode(prompt), model.encode(prompt + choice)
    same = next((i for i, (a, b) in enumerate(zip(alone, whole, strict=False)) if a != b), min(len(alone), len(whole)))
    return min(same, len(whole)), whole
