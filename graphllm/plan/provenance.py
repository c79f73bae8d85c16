"""What a source file was, so that a plan can say what it was made from."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from threading import Event

from graphllm.errors import CheckpointError
from graphllm.plan.place import refusal, shown

_SLICE = 8 << 20


def hash_file(path: str | os.PathLike[str], stop: Event | None = None) -> str:
    """The sha256 of a source file in hex. May run in a thread: reading and hashing both release the GIL.

    ``stop``, once set, ends it early with a hash of no use: whoever set it no longer wants one.

    Raises:
        CheckpointError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb", buffering=0) as file:
            buffer = bytearray(min(_SLICE, max(1, os.fstat(file.fileno()).st_size)))
            view = memoryview(buffer)
            while (count := file.readinto(view)) and not (stop is not None and stop.is_set()):
                digest.update(view[:count])
    except OSError as error:
        raise CheckpointError(f"{shown(path)}: cannot be read; {refusal(error)}") from None
    return digest.hexdigest()
