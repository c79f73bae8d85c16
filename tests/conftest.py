"""What every test gets: a plan cache that is not the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder GRAPHLLM_CACHE names: of this run, and made only when something is cached."""
    folder = tmp_path_factory.getbasetemp() / "graphllm-cache"
    monkeypatch.setenv("GRAPHLLM_CACHE", str(folder))
    return folder
