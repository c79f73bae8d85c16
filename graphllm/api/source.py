"""What a model is called: a path, or the name of the checkpoint that comes with graphllm."""

from __future__ import annotations

import os
from pathlib import Path


def source_of(name: str | os.PathLike[str]) -> Path:
    """The path of a plan or checkpoint. ``demo`` is our own one, unless something of that name lies there."""
    path = Path(name)
    if str(name) != "demo" or path.exists():
        return path
    from graphllm.frontends.demo import CHECKPOINT  # running a plan needs no frontend

    return CHECKPOINT
