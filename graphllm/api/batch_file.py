"""A file of prompts into a file of answers, JSON lines both, that can be interrupted anywhere and goes on.

Each answer is one line, written whole as it is complete. It says which line of the input it answers, with a digest of
all that decided it: prompt, settings, model. So the same command finds what is done, and does not take the answers of
another input for it. A last line that was cut off is removed; any other file is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graphllm.api.complete import Ask, Asked, answers
from graphllm.api.record import record_of
from graphllm.errors import GraphLLMError, PlanError, RunError
from graphllm.plan.place import refusal
from graphllm.plan.strict_json import parse_json
from graphllm.runtime.batch import numbered
from graphllm.runtime.sampling import SamplerConfig

if TYPE_CHECKING:
    from graphllm.api.model import Model
    from graphllm.runtime.chat.format import ChatFormat

_LONGEST = 16 << 20  # bytes of a line
_FLUSH_SECONDS = 1.0
_ASK = ("max_tokens", "stop", "ignore_eos", "echo", "logprobs")
_SAMPLER = tuple(field.name for field in fields(SamplerConfig))
_PROMPTS = ("prompt", "ids", "messages")


@dataclass(slots=True)
class Done:
    """What became of the lines: answered now, found answered, refused now or before with a reason in the output."""

    answered: int = 0
    found: int = 0
    refused: int = 0


class BatchFile:
    """A model, a file of prompts, and where the answers go.

    A line of the input is a text, or an object with ``prompt``, ``ids`` or ``messages``, an ``id`` to be given back,
    and any setting of ``Model.complete``. ``settings`` are for the lines that do not say otherwise; line i samples with
    ``seed + i``. ``format`` is for messages.
    """

    def __init__(
        self,
        model: Model,
        source: Path,
        out: Path,
        settings: Mapping[str, Any],
        format: Callable[[], ChatFormat],
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._model, self._source, self._out, self._say = model, source, out, say
        self._settings, self._format = dict(settings), format
        provenance, options = model.plan.provenance, model.plan.file.documents.get("options", {})
        which = [provenance.get("files"), options.get("dtype"), options.get("quantize")]
        self._which = json.dumps([which, self._settings], sort_keys=True, default=str)
        self._asked: list[tuple[int, str, Any, bool]] = []  # line, digest, id, whether logprobs were asked for
        self._done = Done()

    def run(self, progress: Callable[[str, int, int], None] = lambda _what, _done, _total: None) -> Done:
        """Answer what is not answered yet.

        Raises:
            RunError: the input cannot be read, or the output has other lines than answers to this input.
            PlanError: the output cannot be written.
        """
        total = sum(1 for _ in self._lines())
        with _Output(self._out, self._source, self._say) as output:
            self._output = output
            before = self._match(output.found)
            self._done.found, self._done.refused = len(before) - output.errors, output.errors
            progress("answering", len(before), total)
            for index, answer in answers(self._model, self._waiting(before)):
                line, digest, name, logprobs = self._asked[index]
                output.write(_head(line, digest, name) | record_of(answer, self._model.tokenizer, logprobs=logprobs))
                self._done.answered += 1
                progress("answering", self._done.found + self._done.answered + self._done.refused, total)
        return self._done

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """(number from 1, bytes) of the lines that are not blank."""
        try:
            if not self._source.is_file():
                what = "not a regular file" if self._source.exists() else "no such file"
                raise RunError(f"{self._source}: {what}; expected JSON lines")
            with self._source.open("rb") as file:
                number = 0
                while line := file.readline(_LONGEST + 1):
                    number += 1
                    if len(line) > _LONGEST:
                        raise RunError(f"{self._source}:{number}: longer than {_LONGEST} bytes; expected a JSON line")
                    if line.strip():
                        yield number, line.strip()
        except (OSError, ValueError) as error:
            reason = refusal(error) if isinstance(error, OSError) else error
            raise RunError(f"{self._source}: cannot be read; {reason}") from None

    def _digest(self, line: bytes) -> str:
        return hashlib.sha256(self._which.encode() + b"\n" + line).hexdigest()[:16]

    def _match(self, found: Mapping[int, str]) -> frozenset[int]:
        """The lines that have their answers. Raises RunError where one is another input's."""
        left = dict(found)
        for number, line in self._lines() if found else ():
            digest = left.pop(number, None)
            if digest is not None and digest != self._digest(line):
                left[number] = digest
                break
        if left:
            number = min(left)
            raise RunError(
                f"{self._out}: the answer to line {number} is of another prompt, model or setting; expected those of "
                f"{self._source}, or another output"
            )
        return frozenset(found)

    def _waiting(self, before: frozenset[int]) -> Iterator[Asked]:
        for number, line in self._lines():
            if number in before:
                continue
            digest, name = self._digest(line), None
            try:
                value = parse_json(line, f"{self._source}:{number}")
                given = _object(value)
                name = given.get("id")
                asked = Asked(self._model, self._ask(given, number))
            except GraphLLMError as error:
                self._output.write(_head(number, digest, name) | {"error": str(error)})
                self._done.refused += 1
                continue
            self._asked.append((number, digest, name, asked.ask.logprobs is not None))
            yield asked

    def _ask(self, given: dict[str, Any], number: int) -> Ask:
        known = (*_PROMPTS, "id", *_ASK, *_SAMPLER)
        if unknown := [key for key in given if key not in known]:
            raise RunError(f"{unknown[0]!r:.60}: no such setting; expected some of {', '.join(known)}")
        settings = self._settings | {key: item for key, item in given.items() if key not in (*_PROMPTS, "id")}
        sampler = {key: settings[key] for key in _SAMPLER if key in settings}
        if isinstance(bias := sampler.get("logit_bias"), dict):
            sampler["logit_bias"] = {_token_id(key): x for key, x in cast("dict[Any, Any]", bias).items()}
        config = SamplerConfig(**sampler)
        ask = {key: settings[key] for key in _ASK if key in settings}
        for flag in ("ignore_eos", "echo"):
            if not isinstance(ask.get(flag, False), bool):
                raise RunError(f"{flag}: {ask[flag]!r:.40}; expected true or false")
        config = config if "seed" in given else numbered(config, number)
        if "messages" not in given:
            prompt = given.get("prompt", given.get("ids"))
            if isinstance(prompt, str) != ("prompt" in given):
                raise RunError(f"{'prompt: expected a text' if 'prompt' in given else 'ids: expected token ids'}")
            return Ask(cast("Any", prompt), sampler=config, **ask)
        format = self._format()
        return Ask(format.encode(given["messages"]), sampler=config, end_ids=format.end_ids, **ask)


def _object(value: object) -> dict[str, Any]:
    given = {"prompt": value} if isinstance(value, str) else value
    fields = cast("dict[str, Any]", given) if isinstance(given, dict) else {}
    if sum(key in fields for key in _PROMPTS) != 1:
        raise RunError(f"expected a text, or an object with one of {', '.join(_PROMPTS)}")
    return fields


def _head(line: int, digest: str, name: object) -> dict[str, Any]:
    return {"line": line, "of": digest} | ({"id": name} if name is not None else {})


def _token_id(key: object) -> object:
    return int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 10 else key


class _Output:
    """The file of answers, ours alone while it is open."""

    def __init__(self, path: Path, source: Path, say: Callable[[str], None]) -> None:
        self._path, self._source, self._say = path, source, say
        self.found: dict[int, str] = {}  # line of the input -> digest, of the answers that are there
        self.errors = 0  # among them
        self._flushed = time.monotonic()

    def __enter__(self) -> _Output:
        try:
            if self._path.exists() and not self._path.is_file():
                raise RunError(f"{self._path}: not a regular file; expected a file for the answers")
            if self._path.exists() and self._path.samefile(self._source):
                raise RunError(f"{self._path}: it is the input; expected another file for the answers")
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._fd = os.open(self._path, flags, 0o666)
        except (OSError, ValueError) as error:
            reason = refusal(error) if isinstance(error, OSError) else error
            raise PlanError(f"{self._path}: cannot be written; {reason}") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)

    def write(self, record: Mapping[str, Any]) -> None:
        """One line, whole or, where the disk is full, not at all. Raises PlanError."""
        data = memoryview((json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
        size = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                os.fsync(self._fd)
                self._flushed = time.monotonic()
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._fd, size)
            raise PlanError(f"{self._path}: cannot be written; {refusal(error)}") from None

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{self._path}: another process is writing it; expected one at a time") from None
        except OSError:
            pass  # a file system without locks

    def _read(self) -> None:
        """Find the answers that are there, and remove a last one that was cut off."""
        end = 0
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(0)
            for line in file:
                if not line.endswith(b"\n"):
                    if not b'{"line": '.startswith(line[:9]):
                        raise self._foreign(len(self.found) + 1)
                    self._say(f"{self._path}: its last line was cut off and is answered again")
                    os.ftruncate(self._fd, end)
                    break
                end += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            record = parse_json(line, str(self._path))
            number, digest = record["line"], record["of"]
        except (PlanError, KeyError, TypeError):
            raise self._foreign(len(self.found) + 1) from None
        if type(number) is not int or type(digest) is not str or number in self.found:
            raise self._foreign(len(self.found) + 1)
        self.found[number] = digest
        self.errors += "error" in record

    def _foreign(self, line: int) -> RunError:
        return RunError(f"{self._path}:{line}: not an answer of graphllm batch; expected none but those, or a new file")
