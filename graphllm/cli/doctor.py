"""``graphllm doctor``: what this machine offers each target, and the command that would fix each lack."""

from __future__ import annotations

import argparse
import json


def run(a: argparse.Namespace) -> int:
    from graphllm.measure.doctor.examine import examine
    from graphllm.measure.doctor.finding import findings_json, findings_text

    sections = examine()
    print(json.dumps(findings_json(sections), indent=1) if a.json else findings_text(sections))
    return 1 if any(f.state == "broken" for s in sections for f in s.findings) else 0
