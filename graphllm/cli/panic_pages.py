"""The page that Rust prints when a tokenizer's library panics stays off the terminal: the error is told in one line.

Its runtime writes to the process's standard error and cannot be asked not to. So that is led aside for as long as a
call of the library lasts. What another thread writes meanwhile follows when the call ends, up to a page if there is
one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from threading import RLock

from graphllm.runtime.tokenizer import panics

_STDERR = 2
_PAGE = b"\nthread '"  # how it begins
_one_at_a_time = RLock()  # there is one standard error


@contextmanager
def without_panic_pages() -> Generator[None]:
    """Inside, no panic of a tokenizer's library prints its page."""
    before, panics.around = panics.around, _aside
    try:
        yield
    finally:
        panics.around = before


@contextmanager
def _aside() -> Generator[None]:
    """Standard error goes to a file, and from there to where it went before, but for a panic's page."""
    with _one_at_a_time:
        _flush()
        try:
            kept = os.dup(_STDERR)
        except OSError:  # closed
            yield
            return
        with (
            open(kept, "wb", buffering=0),  # to be closed
            os.fdopen(os.memfd_create("stderr"), "r+b") if hasattr(os, "memfd_create") else TemporaryFile() as file,
        ):
            os.dup2(file.fileno(), _STDERR)
            panicked = False
            try:
                yield
            except BaseException as error:
                panicked = panics.is_panic(error)
                raise
            finally:
                _flush()
                os.dup2(kept, _STDERR)
                file.seek(0)
                text = file.read().partition(_PAGE)[0] if panicked else file.read()
                with suppress(OSError):  # nobody reads it
                    while text:
                        text = text[os.write(kept, text) :]


def _flush() -> None:
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
