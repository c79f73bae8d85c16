"""The C++ text of lowered IR, printed once and found again: a warm start does not run the generator.

Text follows from the lowered IR and from our own sources, and from nothing else. It is kept under a hash of both beside
the libraries and believed as they are, by its own hash. It is not the text that plans carry for reading. Which library
belongs to it is a question of its own (``build.py``), with headers, flags, compiler and CPU in the key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import graphllm.codegen as codegen
from graphllm.compiler.kept import TEXT, kept

# All that decides the text: the language, its table and its parser, and the generator with what it shares with others.
SOURCES: Final = ("codegen/*.py", "codegen/cpu/*.py", "ir/*.py", "ir/ops/*.py")


def printed(lowered: str, generate: Callable[[], str]) -> str:
    """The text that ``generate`` gives, or gave before, for a module parsed from ``lowered`` and verified.

    Raises:
        NativeError: the cache folder cannot be written to.
        GraphLLMError: others may write to it, or whatever ``generate`` raises.
    """

    def make(scratch: Path) -> Path:
        out = scratch / "plan.cpp"
        out.write_bytes(generate().encode())
        return out

    return kept([generator(), lowered], TEXT, make).read_bytes().decode()


@lru_cache(maxsize=1)
def generator() -> str:
    """The hash of our own sources: once a process, whose code does not change either."""
    return hash_of(Path(codegen.__file__).parent.parent)


def hash_of(package: Path) -> str:
    """A hash of what decides the text, in the package that lies there."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()
