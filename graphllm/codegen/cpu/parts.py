"""Parts of a plan's text that may be compiled side by side (``parts.h``): steps of few rows, and steps of many."""

from __future__ import annotations

from typing import Final

PARTS: Final = 2
PARTED: Final = '\n#include "parts.h"\n'  # in a text that has them: a line, which no comment can be
