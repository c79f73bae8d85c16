"""Runs passes: valid in, valid out, verified after each, timed, reported, dumped on request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from graphllm.errors import PassError, VerifyError
from graphllm.ir.core import Module
from graphllm.ir.cost import step_bytes
from graphllm.ir.printer import print_module
from graphllm.ir.verifier import verify


@dataclass(frozen=True, slots=True)
class Pass:
    """A step of a pipeline: a pure function from module to module under the name people call it by."""

    name: str
    run: Callable[[Module], Module]


@dataclass(frozen=True, slots=True)
class Report:
    """What a pass did to a module; counts after it ran are of its first function, as a rule ``decode``."""

    name: str
    changed: bool
    rewrites: int  # operations that were not there before, over all functions
    ops: int
    kernels: int
    bytes_per_step: int  # weights, activations and state the first function touches
    arena: int  # bytes of activations of the largest function, 0 until planned
    milliseconds: float

    def as_json(self) -> dict[str, str | int | float | bool]:
        """For the plan's record; without the time, so that equal compilations give equal plans."""
        out = asdict(self)
        del out["milliseconds"]
        return out


def run_passes(
    module: Module, passes: Sequence[Pass], dump: Path | None = None, first: int = 0
) -> tuple[Module, list[Report]]:
    """The module after all passes and a report of each.

    Args:
        dump: a folder that receives ``<nn>-<pass>.ir`` after each pass that changed something.
        first: number of the first dump.

    Raises:
        PassError: the dump cannot be written, or a pass left a module that breaks the language's rules: our bug, and
            the message names the pass.
    """
    reports: list[Report] = []
    verified: list[tuple[str, object]] | None = None
    for number, step in enumerate(passes, first):
        start = time.perf_counter()
        new = step.run(module)
        milliseconds = (time.perf_counter() - start) * 1e3
        if verified != _objects(new):  # what a pass leaves as it was need not be verified again
            try:
                verify(new)
            except VerifyError as error:
                raise PassError(f"pass {step.name}: left a broken module: {error}") from error
            verified = _objects(new)
        reports.append(_report(step.name, module, new, milliseconds))
        if dump is not None and reports[-1].changed:
            dump_module(new, dump, number, step.name)
        module = new
    return module, reports


def dump_module(module: Module, folder: Path, number: int, name: str) -> None:
    """Write ``<nn>-<name>.ir``. Raises PassError when the folder cannot be written."""
    path = folder / f"{number:02d}-{name}.ir"
    try:
        os.makedirs(folder, exist_ok=True)
        path.write_text(print_module(module), encoding="utf-8")
    except OSError as error:
        raise PassError(f"{path}: cannot write the IR; {error.strerror}") from error


def _report(name: str, old: Module, new: Module, milliseconds: float) -> Report:
    before = {id(op) for f in old.functions.values() for op in f.ops}
    rewrites = sum(id(op) not in before for f in new.functions.values() for op in f.ops)
    changed = rewrites > 0 or _shape(old) != _shape(new)
    first = next(iter(new.functions.values()), None)
    return Report(
        name=name,
        changed=changed,
        rewrites=rewrites,
        ops=sum(1 for _ in first.walk()) if first else 0,
        kernels=sum(op.body is not None for op in first.ops) if first else 0,
        bytes_per_step=step_bytes(first) if first else 0,
        arena=max((f.arena or 0 for f in new.functions.values()), default=0),
        milliseconds=milliseconds,
    )


def _objects(module: Module) -> list[tuple[str, object]]:
    """All that a module is made of, by name and in order. None of it ever changes; each is equal to itself alone."""
    return [*module.weights.items(), *module.states.items(), *module.functions.items()]


def _shape(module: Module) -> tuple[object, ...]:
    """Weights by name, operations by identity, in order, and sizes of arenas."""
    return tuple(module.weights), [([id(op) for op in f.ops], f.arena) for f in module.functions.values()]
