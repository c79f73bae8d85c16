"""The cache of plans: what ``run`` on a checkpoint compiles is kept, so that the next run starts at once.

A plan is found again by where its checkpoint lies, what its files look like from outside (name, size, time of change)
and what was asked for. The folder is private; one that others could write to is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from graphllm._version import __version__
from graphllm.errors import GraphLLMError
from graphllm.plan.container import PLAN_VERSION
from graphllm.plan.place import refusal, shown

if TYPE_CHECKING:
    from graphllm.compiler.options import Options  # running a plan needs none of what that needs


def cache_folder() -> Path:
    """Where plans are kept: $GRAPHLLM_CACHE, else the user's cache folder. Made private when it is made.

    Raises:
        GraphLLMError: it cannot be made, is somebody else's, or others may write to it.
    """
    chosen = os.environ.get("GRAPHLLM_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return private_folder(Path(chosen) if chosen else base / "graphllm")


def private_folder(folder: Path) -> Path:
    """The folder, made if need be, for us alone to write to. Raises GraphLLMError where it is not."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError, ValueError) as error:
        why = refusal(error) if isinstance(error, OSError) else error
        raise GraphLLMError(
            f"cache {shown(folder)}: cannot be made; {why}; set GRAPHLLM_CACHE to another folder"
        ) from None
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        raise GraphLLMError(f"cache {folder}: belongs to another user; set GRAPHLLM_CACHE to a folder of your own")
    if sys.platform != "win32" and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise GraphLLMError(f"cache {folder}: others may write to it; run chmod go-w on it or set GRAPHLLM_CACHE")
    return folder


def cached_path(checkpoint: Path, tokenizer: Path | None, options: Options) -> Path:
    """Where the plan of a checkpoint with these options is, or will be, kept."""
    key = json.dumps(
        {
            "graphllm": __version__,
            "plan": PLAN_VERSION,
            "checkpoint": list(_looks(checkpoint)),
            "tokenizer": list(_looks(tokenizer)) if tokenizer is not None else [],
            "options": options.as_json(),
        },
        sort_keys=True,
        default=str,
    )
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return cache_folder() / f"{name[:32]}.gllm"


def cached_plans() -> list[Path]:
    """Every plan in the cache."""
    return sorted(cache_folder().glob("*.gllm"))


def _looks(path: Path) -> Iterator[tuple[str, int, int]]:
    """(path, bytes, time of change) of a file and those that may belong to it, or of what a folder holds."""
    try:
        path = path.resolve()
        beside = [path] if path.is_dir() else [path, *(path.parent / n for n in _BESIDE)]
        files = sorted(p for place in beside for p in (place.iterdir() if place.is_dir() else (place,)))
        for file in files:
            if file.is_file():
                status = file.stat()
                yield str(file), status.st_size, status.st_mtime_ns
    except (OSError, RuntimeError, ValueError) as error:
        raise GraphLLMError(f"{path}: cannot be read; {error}") from None


_BESIDE = (
    *("tokenizer.json", "tokenizer.model", "tokenizer.bin"),
    *("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
)
