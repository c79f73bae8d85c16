"""Machine code that was compiled before, in a private folder: found by what went into it, believed by its own hash.

A kernel's code and log lie side by side under a name made of two hashes: of everything that went into them (text,
headers, options, architecture, compiler) and of the two files' bytes. So each is written by one rename, two processes
that compile the same end with the same files, and what was damaged or swapped is noticed and compiled again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from graphllm.compiler.cache import cache_folder, private_folder
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.errors import NativeError
from graphllm.plan.place import refusal

_KEY, _DIGEST = 32, 32  # hexadecimal digits of each in a name
_CODE: Final = ".cubin"


def cubin_folder() -> Path:
    """Where machine code is kept, within the cache of plans. Raises GraphLLMError where others may write to it."""
    return private_folder(cache_folder() / "cuda")


def kept_cubins() -> list[Path]:
    """Every file that ``keep`` has written and that is still there."""
    folder = cache_folder() / "cuda"
    return sorted((*folder.glob(f"*{_CODE}"), *folder.glob("*.log")))


def key_of(parts: tuple[str, ...]) -> str:
    """A name for what is made of these texts and nothing else."""
    lengths = " ".join(str(len(part)) for part in parts)
    return hashlib.sha256("\0".join((lengths, *parts)).encode("utf-8", "surrogateescape")).hexdigest()[:_KEY]


def find(folder: Path, key: str, name: str, arch: str) -> Cubin | None:
    """What is kept under a key, if it is what was written there; what is not is removed."""
    for file in sorted(folder.glob(f"{key}.*{_CODE}")):
        log = file.with_suffix(".log")
        try:
            code, said = file.read_bytes(), log.read_bytes()
            if file.name.split(".")[1] == _digest(code, said):
                return Cubin(name, arch, code, said.decode("utf-8"))
        except (OSError, UnicodeDecodeError):
            pass
        for damaged in (file, log):
            with suppress(OSError):  # another process may have seen it too
                damaged.unlink()
    return None


def keep(folder: Path, key: str, cubin: Cubin) -> None:
    """Write code and log. Raises NativeError where they cannot be written."""
    code, said = cubin.code, cubin.log.encode("utf-8")
    stem = f"{key}.{_digest(code, said)}"
    try:
        for suffix, content in ((".log", said), (_CODE, code)):  # the code last: it is what ``find`` looks for
            _write(folder / (stem + suffix), content)
    except OSError as error:
        raise NativeError(f"cache {folder}: cannot be written; {refusal(error)}; set GRAPHLLM_CACHE") from None


def _write(file: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix="new-", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _digest(code: bytes, log: bytes) -> str:
    return hashlib.sha256(b"%d " % len(code) + code + log).hexdigest()[:_DIGEST]
