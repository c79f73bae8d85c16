"""Errors of the `tokenizers` library as ours, in one line.

It raises bare Exception. Where its Rust code panics, on a regular expression that takes too long for one, that arrives
as a BaseException without a public name, and its runtime has by then written a page to the process's standard error.
So that is led aside while the library works, and given back unless it was a panic's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from threading import RLock

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer.tokenizer import one_line

_STDERR = 2
_one_at_a_time = RLock()  # there is one standard error


@contextmanager
def library_errors(where: str, what: str) -> Generator[None]:
    """A TokenizerError ``where: what; …`` for whatever the library raises inside."""
    with _one_at_a_time, _aside() as held:
        try:
            yield
        except TokenizerError:
            raise
        except BaseException as e:
            panic = type(e).__name__ == "PanicException"
            if isinstance(e, MemoryError) or not (isinstance(e, Exception) or panic):
                raise
            if panic and held >= 0:
                os.ftruncate(held, 0)
            raise TokenizerError(f"{where}: {what}; {one_line(e)}") from None


@contextmanager
def _aside() -> Generator[int]:
    """Standard error goes to a file, whose descriptor this is, and what is left in it comes back; -1: as it was."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    try:
        kept = os.dup(_STDERR)
    except OSError:  # closed
        yield -1
        return
    try:
        with os.fdopen(os.memfd_create("stderr"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile() as file:
            os.dup2(file.fileno(), _STDERR)
            try:
                yield file.fileno()
            finally:
                os.dup2(kept, _STDERR)
                size = os.fstat(file.fileno()).st_size
                if size:
                    os.lseek(file.fileno(), 0, os.SEEK_SET)
                    with suppress(OSError):
                        os.write(_STDERR, os.read(file.fileno(), size))
    finally:
        os.close(kept)
