"""The report as plain data: what the page shows, and what ``--json`` prints. ``schema.json`` describes it.

``version`` grows when a field changes or goes; fields may be added.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from graphllm._version import __version__
from graphllm.view.as_json import module_json
from graphllm.view.report.differences import differences_json
from graphllm.view.report.findings import findings_json
from graphllm.view.report.memory import memory_json
from graphllm.view.report.ops import ops_json
from graphllm.view.report.overview import overview_json
from graphllm.view.report.passes import LineTable, passes_json
from graphllm.view.report.source import source_json
from graphllm.view.report.structure import structure_json
from graphllm.view.report.subject import Subject
from graphllm.view.report.weights import weights_json

VERSION: Final = 1
SCHEMA: Final = Path(__file__).with_name("schema.json")

Json = dict[str, Any]


def report_json(subjects: Sequence[Subject]) -> Json:
    """One plan, or two and their differences. Raises GraphLLMError for a module whose memory was not planned."""
    table = LineTable()
    plans = [_plan(s, table) for s in subjects]
    if len({plan["name"] for plan in plans}) < len(plans):  # they must be told apart
        plans[-1]["name"] += ", the second"
    differences = None
    if len(subjects) == 2:
        modules = subjects[0].lowered, subjects[1].lowered
        differences = differences_json(plans[0], plans[1], modules, table)
    return {
        "version": VERSION,
        "graphllm": __version__,
        "schema": json.loads(SCHEMA.read_text(encoding="utf-8")),
        "ops": ops_json([s.lowered for s in subjects]),
        "plans": plans,
        "differences": differences,
        "lines": table.lines,
    }


def _plan(subject: Subject, table: LineTable) -> Json:
    module = subject.lowered
    functions = module.functions.values()
    return {
        "name": subject.name,
        "target": subject.target,
        "config": dict(subject.config),
        "provenance": dict(subject.provenance),
        "options": dict(subject.options),
        "notes": list(subject.notes),
        "text_cost": dict(subject.text_cost) if subject.text_cost is not None else None,
        "overview": overview_json(subject),
        "module": module_json(module),
        "structure": {f.name: structure_json(f) for f in functions},
        "source": source_json(subject.source),
        "memory": {f.name: memory_json(f, subject.lower_bounds.get(f.name, 0)) for f in functions},
        "weights": weights_json(module, subject.costs),
        "passes": passes_json(subject.snapshots, table),
        "findings": findings_json(subject),
        "profile": subject.profile.as_json() if subject.profile is not None else None,
    }
