"""What every test gets: a plan cache that is not the user's, and NumPy where no target is named.

``--update-golden`` rewrites golden files, never in CI.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graphllm.compiler.native import build

if "PYTEST_XDIST_WORKER" in os.environ:  # processes share the cores, and BLAS would take all of them for each
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder GRAPHLLM_CACHE names: of this run, all its processes, and made only when something is cached."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "graphllm-cache"
    monkeypatch.setenv("GRAPHLLM_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def one_compiler_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests side by side keep the cores busy: a text is compiled whole, which takes less of them than its parts do."""
    monkeypatch.setattr(build, "physical_cores", lambda: 1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what comes out into the golden files")


def pytest_configure(config: pytest.Config) -> None:
    os.environ["GRAPHLLM_TARGET"] = "numpy"  # else every model of a test would start a C++ compiler
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused in CI: golden files are changed and read by people")
