"""What a report is made of: a plan's module as each pass left it, its code, and what is known beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from graphllm.ir.core import Module
from graphllm.view.profile_data import Profile


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The module after a pass, or as it was traced.

    Attributes:
        name: of the pass; ``traced`` for the beginning.
        stage: whether the pass is for all targets or for one.
        counts: what the pass reported, JSON; empty for the beginning.
        milliseconds: that it took.
    """

    name: str
    stage: Literal["traced", "portable", "lowering"]
    module: Module
    counts: Mapping[str, Any]
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Source:
    """Generated code: its text, and for each function which kernel each operation calls, and how; '' for none.

    Attributes:
        moved: for each function bytes that the launches of each operation move with an empty cache, and the least that
            they could; None for one that launches nothing. Empty for targets that launch nothing.
        resources: of kernels, what they take of a multiprocessor of ``arch``, where they were compiled.
    """

    language: str
    text: str
    kernels: Mapping[str, Sequence[str]]
    launches: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    moved: Mapping[str, Sequence[tuple[int, int] | None]] = field(
        default_factory=dict[str, "Sequence[tuple[int, int] | None]"]
    )
    resources: Mapping[str, Mapping[str, int]] = field(default_factory=dict[str, Mapping[str, int]])
    arch: str = ""


@dataclass(frozen=True, slots=True)
class TensorCost:
    """What rounding cost a stored tensor: error relative to its source, and the largest error of an element."""

    relative: float
    largest: float


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine can do: bytes read and floating point operations a second, 0 where that is not known."""

    bytes_per_second: float = 0.0
    flops_per_second: float = 0.0
    how: str = ""


@dataclass(frozen=True, slots=True)
class Subject:
    """A plan, or a checkpoint compiled in memory.

    Attributes:
        name: the file's own name.
        target: what it is lowered for.
        snapshots: from traced to lowered, the last being what runs.
        config, provenance, options: JSON as the plan records them.
        costs: of tensors that were rounded, by name, where that was measured.
        tokens: ids that the tokenizer has; 0 where there is none.
        lower_bounds: for each function, the least bytes that any arena could do with.
        notes: lines about the report itself.
    """

    name: str
    target: str
    snapshots: Sequence[Snapshot]
    source: Source
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    costs: Mapping[str, TensorCost] = field(default_factory=dict[str, TensorCost])
    text_cost: Mapping[str, Any] | None = None
    tokens: int = 0
    lower_bounds: Mapping[str, int] = field(default_factory=dict[str, int])
    rates: Rates = field(default_factory=Rates)
    profile: Profile | None = None
    notes: Sequence[str] = ()

    @property
    def lowered(self) -> Module:
        """What runs."""
        return self.snapshots[-1].module
