"""The process that renders chat templates: Jinja in its immutable sandbox, under limits of time, memory and output.

A template comes with a checkpoint, so it is code of a stranger. Jinja's sandbox keeps it from Python's objects, but not
from ``range(10**9)`` or ``'a' * 10**10``, nor can Python stop those once they run. A process can be ended. This one
reads requests from its standard input, a JSON object a line, and answers each with one: ``{"text": …}``, or
``{"raised": …}`` where the template itself refuses the dialogue, or ``{"error": …}``.

The environment is that of Hugging Face transformers (trimmed blocks, loop controls, the ``generation`` tag, ``tojson``
without HTML escapes, ``raise_exception``, ``strftime_now``), because templates are written against it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

READY = b"ready\n"  # said once, so that the time of starting is not taken for a template's
MEMORY = 768 << 20  # bytes of address space; rendering a long dialogue takes a tenth


class _RaisedError(Exception):
    """``raise_exception`` of a template."""


class _TooLongError(Exception):
    """More text than any dialogue has."""


def main() -> None:
    """Answer requests until standard input ends."""
    _bound_memory()
    # Not the names: a template that got hold of `sys` could write here as if it were we.
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    _environment()
    replies.write(READY)
    replies.flush()
    for line in iter(requests.readline, b""):
        request = json.loads(line)
        _bound_processor_time(request["seconds"])
        replies.write(json.dumps(_answer(request)).encode("ascii") + b"\n")
        replies.flush()


def _answer(request: dict[str, Any]) -> dict[str, str]:
    from jinja2 import TemplateSyntaxError
    from jinja2.exceptions import SecurityError

    now = datetime.fromtimestamp(request["now"])
    try:
        template = _compiled(request["template"])
        text = _bounded(template.generate(**request["variables"], strftime_now=now.strftime), request["characters"])
        return {"text": text.encode("utf-8", "replace").decode("utf-8")}
    except _RaisedError as error:
        return {"raised": str(error)[:400]}
    except _TooLongError:
        return {"error": f"wrote more than {request['characters']} characters"}
    except TemplateSyntaxError as error:
        return {"error": f"not Jinja; line {error.lineno}: {error.message}"[:400]}
    except SecurityError as error:
        return {"error": f"reaches for what a template may not have; {error}"[:400]}
    except RecursionError:
        return {"error": "nested too deeply"}
    except MemoryError:
        return {"error": f"took more than {MEMORY >> 20} MiB of memory"}
    except Exception as error:  # whatever a stranger's code can raise
        with suppress(Exception):
            return {"error": f"failed; {type(error).__name__}: {error}"[:400]}
        return {"error": f"failed; {type(error).__name__}"}


def _bounded(pieces: Any, characters: int) -> str:
    held: list[str] = []
    for piece in pieces:
        characters -= len(piece)
        if characters < 0:
            raise _TooLongError
        held.append(piece)
    return "".join(held)


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what training learns from; for rendering it is its content."""

        tags = {"generation"}  # noqa: RUF012  as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    extensions: list[Any] = [Generation, loopcontrols]
    environment: Any = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: object) -> None:
    raise _RaisedError(message)


def _bound_memory() -> None:
    """Where the system has such limits: address space, no files longer than nothing, no core."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        set_limit: Callable[[int, tuple[int, int]], None] = resource.setrlimit
        for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
            with suppress(OSError, ValueError):
                set_limit(what, (most, most))


def _bound_processor_time(seconds: float) -> None:
    """Ends the process by itself, should whoever waits for it be gone."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 2, hard))
