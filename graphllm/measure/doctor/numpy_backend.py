"""What the target numpy has: it runs everywhere, and is as fast as the BLAS below it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from graphllm.measure.doctor.finding import Finding


def numpy_backend() -> list[Finding]:
    """NumPy and the library that multiplies its matrices."""
    out = [Finding("NumPy", np.__version__)]
    config = cast("dict[str, Any]", np.show_config(mode="dicts"))
    blas = cast("dict[str, Any]", config.get("Build Dependencies", {})).get("blas", {})
    if blas.get("found"):
        out.append(Finding("BLAS", f"{blas.get('name', 'unnamed')} {blas.get('version', '')}".strip()))
    else:
        fix = "pip install --force-reinstall numpy"
        out.append(Finding("BLAS", "none: matrix products are many times slower", "absent", fix))
    return out
