"""Plans to report on: of the zoo, with hostile names; and a made-up profile."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import graphllm
from graphllm.view.profile_data import KernelTime, Profile, Span
from graphllm.view.report.subject import Subject
from tests.checkpoint_writers import write_huggingface
from tests.model_zoo import ZOO, random_tensors
from tests.small_plans import edited, small_plan

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&lt;\u2028'\"`${1}"


def plan_of(folder: Path, name: str, **options: Any) -> Path:
    """A model of the zoo as a plan."""
    if not (folder / name).exists():
        write_huggingface(folder / name, ZOO[name], random_tensors(ZOO[name], 1))
    out = folder / f"{name}-{len(list(folder.glob('*.gllm')))}.gllm"
    graphllm.compile(folder / name, out, **options).file.close()
    return out


def evil_plan(folder: Path) -> Path:
    """A plan whose tensors say that they were called something hostile."""
    plan = small_plan(folder)
    quoted = json.dumps(EVIL)[1:-1].replace("\\", "\\\\")
    return edited(
        plan, folder / "@STYLE@.gllm", lambda text: re.sub(r'from "[^"]*"', f'from "{quoted}"', text), section="ir"
    )


def profile_of(subject: Subject) -> Profile:
    """A made-up profile of a step: every kernel takes its number of microseconds."""
    ops = subject.lowered.functions["decode"].ops
    kernels, spans, at = list[KernelTime](), list[Span](), 0
    for i, op in enumerate(ops):
        took = 1000 * (i + 1)
        names = tuple(o.name for o in (op.body.ops if op.body is not None else (op,)))
        kernels.append(KernelTime(i, op.results[0].name, op.template or op.name, -1, names, at, took, 10, 64, 128))
        spans += [Span(i, thread, at, took - thread) for thread in range(2)]
        at += took
    return Profile(subject.target, 2, "decode", 1, 3, 5, at + 500, 1e9, 0.0, tuple(kernels), tuple(spans))
