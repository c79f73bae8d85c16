"""Generated code with the lines of each kernel found in it."""

from __future__ import annotations

import re
from typing import Any

from graphllm.view.report.subject import Source

Json = dict[str, Any]


def source_json(source: Source) -> Json:
    """The text, the lines [first, end) of every kernel by name, and what each operation of each function calls."""
    lines = source.text.splitlines()
    wanted = {name for names in source.kernels.values() for name in names if name}
    return {
        "language": source.language,
        "text": source.text,
        "places": {name: place for name in sorted(wanted) if (place := _place(lines, name)) is not None},
        "kernels": {function: list(names) for function, names in source.kernels.items()},
        "launches": {function: list(words) for function, words in source.launches.items()},
        "moved": {function: [list(m) if m else None for m in all_] for function, all_ in source.moved.items()},
        "resources": {name: dict(taken) for name, taken in source.resources.items()},
        "arch": source.arch,
    }


def _place(lines: list[str], name: str) -> list[int] | None:
    """From the comment above a kernel's definition to its end."""
    marker = f"// ---- {name}.cu"  # a translation unit of its own
    if marker in lines:
        first = lines.index(marker)
        end = next((i for i in range(first + 1, len(lines)) if lines[i].startswith("// ---- ")), len(lines))
        return [first, end]
    head = re.compile(rf"(?:void|def)\s+{re.escape(name)}\(")
    first = next((i for i, line in enumerate(lines) if head.match(line)), None)
    if first is None:
        return None
    end = first + 1
    while end < len(lines) and (not lines[end] or lines[end][0] in " \t"):
        end += 1
    if end < len(lines) and lines[end].startswith("}"):
        end += 1
    while end > first and not lines[end - 1].strip():
        end -= 1
    while first > 0 and lines[first - 1].startswith(("//", "#")):
        first -= 1
    return [first, end]
