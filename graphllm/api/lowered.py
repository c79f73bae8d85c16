"""The lowered module of a plan for a target and step sizes: the plan's own where that will do, or lowered again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from graphllm._version import __version__
from graphllm.api.plan import Plan
from graphllm.compiler.link import module_of
from graphllm.ir.core import Module
from graphllm.plan.plan_file import PlanFile

if TYPE_CHECKING:
    from graphllm.compiler.targets import TargetName
    from graphllm.ir.types import DType

Say: TypeAlias = Callable[[str], None]  # one line for the user, about something done on their behalf


@dataclass(frozen=True, slots=True)
class Wanted:
    """A plan and the step sizes asked of it; 0 and None leave the plan's own."""

    file: PlanFile
    context: int
    slots: int
    kv_dtype: DType | None
    say: Say

    def own(self, target: TargetName) -> Module | None:
        """The plan's own module for a target, None where it has none for these step sizes and this version."""
        section = f"lowered/{target}"
        if self.other_steps() or not self.same_version() or section not in self.file.sections:
            return None
        return module_of(self.file, section)

    def text(self, target: TargetName) -> str:
        """What ``own`` is parsed from, '' where the plan has none."""
        return self.file.sections.get(f"lowered/{target}", "")

    def again(self, target: TargetName) -> Module:
        """From the portable IR for another target, from the start for other step sizes or another version."""
        from graphllm.compiler.record import steps_of
        from graphllm.compiler.relower import lowered_for, relowered

        if not self.other_steps() and self.same_version() and f"lowered/{target}" not in self.file.sections:
            self.say(f"lowered again for {target}: the plan was made for {Plan(self.file).target}")
            return lowered_for(self.file, target)
        steps = steps_of(self.file, self.context, self.slots, self.kv_dtype)
        module = relowered(self.file, steps, target)
        if self.other_steps():
            self.say(f"lowered again for context {steps.context}, slots {steps.slots}, {steps.kv_dtype} cache")
        else:
            self.say(f"lowered again: the plan was not lowered by graphllm {__version__} for {target}")
        return module

    def other_steps(self) -> bool:
        if not (self.context or self.slots or self.kv_dtype):
            return False
        from graphllm.compiler.record import steps_of

        return steps_of(self.file, self.context, self.slots, self.kv_dtype) != steps_of(self.file)

    def same_version(self) -> bool:
        return self.file.documents.get("provenance", {}).get("graphllm") == __version__
