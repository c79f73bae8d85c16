"""The checkpoint that comes with graphllm: a small Llama that tells stories, trained by ``examples/tiny_tales``."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CHECKPOINT: Final = Path(__file__).parent / "tiny_tales.bin"  # llama2.c v0, its tokenizer.model beside it
