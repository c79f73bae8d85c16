"""The machine itself, Python, and libraries that some commands would use."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from graphllm._version import __version__
from graphllm.compiler.native.isa import cpu_features
from graphllm.compiler.targets import resolve
from graphllm.errors import GraphLLMError
from graphllm.measure.doctor.finding import Finding
from graphllm.runtime.cores import physical_cores
from graphllm.runtime.memory import available_bytes
from graphllm.view.units import bytes_text

_OPTIONAL: Final = {
    "transformers": "diff compares with the model as it runs there",
    "torch": "transformers runs on it",
    "matplotlib": "plots as PNG; SVG needs nothing",
}


def machine() -> list[Finding]:
    """System, processor, memory, and which target is used where nobody names one."""
    room = available_bytes()
    out = [
        Finding("graphllm", f"{__version__}, Python {platform.python_version()}"),
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Finding("processor", _processor()),
        Finding("cores", f"{physical_cores()} physical for this process, {os.cpu_count()} logical in the machine"),
        Finding("memory", f"{bytes_text(room)} available" if room is not None else "the system does not say"),
    ]
    try:
        target, why = resolve(None)
        out.append(Finding("target", f"{target} by default" if why else f"{target}, by $GRAPHLLM_TARGET"))
    except GraphLLMError as error:
        out.append(Finding("target", str(error), "broken", "unset GRAPHLLM_TARGET"))
    return out


def optional_libraries() -> list[Finding]:
    """Those that some command uses where they are."""
    out: list[Finding] = []
    for name, use in _OPTIONAL.items():
        found = installed(name)
        if found:
            out.append(Finding(name, f"{found}: {use}"))
        else:
            out.append(Finding(name, use, "absent", f"pip install {name}"))
    return out


def installed(distribution: str) -> str:
    """The version of an installed distribution, '' where there is none. Nothing is imported."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    lines = cpu_features().splitlines()
    named = next((line for line in lines if line.startswith("model name")), "")
    return named.partition(":")[2].strip() or platform.processor() or platform.machine()
