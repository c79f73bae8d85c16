"""Where the public test data lies, when it is there. None of it is committed; tests skip with a reason without it."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"


def shared(relative: str) -> Path:
    """Path of a file or folder of the public test data; skips the calling test when it is not there."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"public test data not found: ../shared/data/{relative}")
    return path
