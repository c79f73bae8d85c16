"""Errors of the `tokenizers` library as ours, in one line.

It raises bare Exception. Where its Rust code panics, on a regular expression that takes too long for one, that arrives
as a BaseException without a public name, and its runtime has by then written a page to the process's standard error.
That stream is the program's, not ours: a program that does not want the page says in ``around`` what to do about it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from graphllm.errors import TokenizerError
from graphllm.runtime.tokenizer.tokenizer import one_line

# What is entered about every call of the library; an error of it passes through.
around: Callable[[], AbstractContextManager[None]] = nullcontext


@contextmanager
def library_errors(where: str, what: str) -> Generator[None]:
    """A TokenizerError ``where: what; …`` for whatever the library raises inside."""
    try:
        with around():
            yield
    except TokenizerError:
        raise
    except BaseException as e:
        if isinstance(e, MemoryError) or not (isinstance(e, Exception) or is_panic(e)):
            raise
        raise TokenizerError(f"{where}: {what}; {one_line(e)}") from None


def is_panic(error: BaseException) -> bool:
    """Whether Rust code panicked: the class has no public name."""
    return type(error).__name__ == "PanicException"
