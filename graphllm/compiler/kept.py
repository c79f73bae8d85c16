"""What was made before, in private folders: found by what went into it, believed by its own hash.

A file lies under a name made of two hashes: of everything that went into it (of a library: our text, our headers,
flags, compiler, CPU) and of its own bytes. So it is written by one rename, two processes that make the same end with
the same file, and one that was damaged or swapped is noticed before it is used.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from graphllm.compiler.cache import cache_folder, private_folder
from graphllm.errors import NativeError
from graphllm.plan.place import refusal

_KEY, _DIGEST = 32, 32  # hexadecimal digits of each in a name
LIBRARY: Final = ".so"
OBJECT: Final = ".o"
TEXT: Final = ".cpp"
INDEX: Final = ".index"
_FOLDERS: Final = {LIBRARY: "native", OBJECT: "native", TEXT: "native", INDEX: "tokenizers"}


def native_folder() -> Path:
    """Where libraries are kept, within the cache of plans. Raises GraphLLMError where others may write to it."""
    return private_folder(cache_folder() / "native")


def built_libraries() -> list[Path]:
    """Every library in the cache, and every object that several libraries share."""
    folder = cache_folder() / "native"
    return sorted((*folder.glob(f"*{LIBRARY}"), *folder.glob(f"*{OBJECT}")))


def other_files() -> list[Path]:
    """Everything else that ``kept`` has written: texts that libraries are built from, indexes of tokenizers."""
    return sorted(file for suffix in (TEXT, INDEX) for file in (cache_folder() / _FOLDERS[suffix]).glob(f"*{suffix}"))


def kept(parts: Iterable[str], suffix: str, make: Callable[[Path], Path]) -> Path:
    """The file that is made of ``parts`` and nothing else, made if it is not there.

    Args:
        make: makes it in a folder that is gone afterwards, and says where.

    Raises:
        NativeError: the folder cannot be written to; whatever ``make`` raises.
        GraphLLMError: others may write to the folder.
    """
    key = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:_KEY]
    folder = private_folder(cache_folder() / _FOLDERS[suffix])
    for file in sorted(folder.glob(f"{key}.*{suffix}")):
        if _intact(file):
            return file
        with suppress(OSError):  # damaged or swapped; another process may have seen it too
            file.unlink()
    try:
        with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
            made = make(Path(scratch))
            made.chmod(0o700)  # whatever the umask says: what is checked now is loaded a moment later
            file = folder / f"{key}.{_digest(made)}{suffix}"
            os.replace(made, file)
            return file
    except OSError as error:
        raise NativeError(f"cache {folder}: cannot be written; {refusal(error)}; set GRAPHLLM_CACHE") from None


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:_DIGEST]


def _intact(file: Path) -> bool:
    """Whether it is a file that nobody else may write to and holds what its name says."""
    try:
        mode = file.lstat().st_mode
        private = sys.platform == "win32" or not mode & (stat.S_IWGRP | stat.S_IWOTH)
        return stat.S_ISREG(mode) and private and file.name.split(".")[1] == _digest(file)
    except OSError:
        return False
