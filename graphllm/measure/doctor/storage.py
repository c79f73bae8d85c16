"""Where plans and native code are kept, what lies there, and how much room is left."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from graphllm.compiler.cache import cache_folder, cached_plans
from graphllm.compiler.kept import built_libraries
from graphllm.errors import GraphLLMError
from graphllm.measure.doctor.finding import Finding
from graphllm.plan.place import shown
from graphllm.view.units import bytes_text

_LITTLE = 2 << 30  # bytes: a plan of 1 B weights in int8 takes about 1.2 GB


def storage() -> list[Finding]:
    """The cache folder and the disk it is on."""
    try:
        folder = cache_folder()
    except GraphLLMError as error:
        return [Finding("folder", str(error), "broken", "export GRAPHLLM_CACHE=$HOME/graphllm-cache")]
    out = [Finding("folder", shown(folder))]
    if not os.access(folder, os.W_OK | os.X_OK):
        out.append(Finding("writable", "no", "broken", f"chmod u+rwx {shown(folder)}"))
    plans, libraries = cached_plans(), built_libraries()
    held = (
        f"{len(plans)} plans, {bytes_text(_bytes(plans))}; {len(libraries)} libraries, {bytes_text(_bytes(libraries))}"
    )
    out.append(Finding("holds", held))
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        little = free < _LITTLE
        out.append(
            Finding(
                "disk",
                f"{bytes_text(free)} free" + (": too little for a model of 1 B weights" if little else ""),
                "absent" if little else "ok",
                "graphllm cache --clear" if little and plans else "",
            )
        )
    return out


def _bytes(files: list[Path]) -> int:
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.stat().st_size
    return total
