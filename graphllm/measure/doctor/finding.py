"""What an examination finds, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "absent", "broken"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name; ``value``: what was found, in words.
        state: ``ok``; ``absent``: not there, and things work without it; ``broken``: something will fail.
        fix: the one command that would change it, '' where it is ok or nothing can.
    """

    what: str
    value: str
    state: State = "ok"
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """What was found about one part of the machine."""

    name: str
    findings: tuple[Finding, ...]


def findings_text(sections: Sequence[Section]) -> str:
    """A page: a line a finding, its fix below it."""
    width = max((len(f.what) for s in sections for f in s.findings), default=0)
    lines: list[str] = []
    for section in sections:
        lines.append(section.name)
        for f in section.findings:
            mark = "" if f.state == "ok" else f.state
            lines.append(f"  {mark:6}  {f.what:{width}}  {f.value}".rstrip())
            if f.fix:
                lines.append(f"  {'':6}  {'':{width}}  fix: {f.fix}")
        lines.append("")
    found = [f for s in sections for f in s.findings]
    broken, absent = (sum(f.state == state for f in found) for state in ("broken", "absent"))
    lines.append(f"{broken} broken, {absent} absent" if broken or absent else "all is there")
    return "\n".join(lines)


def findings_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The same as data: [{name, findings: [{what, value, state, fix}]}]."""
    return [
        {
            "name": s.name,
            "findings": [{"what": f.what, "value": f.value, "state": f.state, "fix": f.fix} for f in s.findings],
        }
        for s in sections
    ]
