"""An open plan, to be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from graphllm.compiler.link import module_of
from graphllm.errors import RunError
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile

if TYPE_CHECKING:
    from graphllm.compiler.quality import TensorError, TextCost

Stage = Literal["traced", "optimised", "lowered"]


class Plan:
    """An open plan: what it says, and its IR at every stage. Mappings are JSON as it was recorded."""

    def __init__(self, file: PlanFile) -> None:
        self.file = file

    @property
    def path(self) -> Path:
        """Where the plan lies."""
        return self.file.path

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's config: dim, layers, heads …"""
        return self.file.documents.get("config", {})

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Source files with their hashes, what the reader assumed, versions."""
        return self.file.documents.get("provenance", {})

    @property
    def quality(self) -> tuple[list[TensorError], TextCost | None] | None:
        """What rounding to int8 cost, tensor by tensor and on a text, where it was measured. Raises PlanError."""
        from graphllm.compiler.record import quality_of

        return quality_of(self.file)

    @property
    def report(self) -> Mapping[str, Any]:
        """What each pass did."""
        return self.file.documents.get("report", {})

    @cached_property
    def module(self) -> Module:
        """The portable IR, verified: ``print(graphllm.ir.print_module(plan.module))``. Raises PlanError."""
        return module_of(self.file, "ir")

    @property
    def target(self) -> str:
        """What the plan was lowered for, ``cpu`` or ``numpy``; it runs on others too, lowered again when loaded."""
        held = [name.removeprefix("lowered/") for name in self.file.sections if name.startswith("lowered/")]
        recorded = self.file.documents.get("options", {}).get("target")
        return recorded if recorded in held else held[0] if held else "numpy"

    @cached_property
    def lowered(self) -> Module:
        """The IR as its target runs it, verified: kernels, order, memory. Raises PlanError."""
        return module_of(self.file, f"lowered/{self.target}")

    def stage(self, name: Stage) -> Module:
        """The module as it was ``traced``, ``optimised`` by the portable passes, or ``lowered``.

        Raises:
            PlanError: the stage is not in the plan, or broken.
            CheckpointError: the recorded sizes, from which ``traced`` is made again, are of no model.
            RunError: there is no such stage.
        """
        if name == "traced":
            from graphllm.compiler.relower import traced

            return traced(self.file)
        if name not in get_args(Stage):
            raise RunError(f"stage: {name!r}; expected {', '.join(get_args(Stage))}")
        return self.module if name == "optimised" else self.lowered

    @property
    def source(self) -> str:
        """The generated C++ or Python, as it was when the plan was made; running generates it afresh."""
        return self.file.sections.get(f"source/{self.target}", "")

    def close(self) -> None:
        """Let go of the file; arrays taken from it stay good."""
        self.file.close()
