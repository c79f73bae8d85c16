"""``graphllm verify``: everything a plan says, checked: digests, IR, code, and each step on the null device."""

from __future__ import annotations

import argparse


def run(a: argparse.Namespace) -> int:
    from graphllm.api.plan import Plan
    from graphllm.compiler.backends import BACKENDS
    from graphllm.compiler.link import check_kernels, check_weights, module_of
    from graphllm.compiler.targets import resolve
    from graphllm.plan.place import size_text
    from graphllm.plan.plan_file import PlanFile
    from graphllm.runtime.dry_run import dry_run
    from graphllm.runtime.interface import check_interface

    with PlanFile.open(a.plan, verify="all") as plan:
        target, _ = resolve(Plan(plan).target)
        lowered = module_of(plan, f"lowered/{target}")
        check_weights(plan, module_of(plan, "ir"))
        for name in plan.code:
            plan.machine_code(name)
        check_interface(lowered, a.plan)
        check_kernels(lowered, a.plan, BACKENDS[target].target)
        check_weights(plan, lowered)
        BACKENDS[target].source(lowered)
        dry_run(lowered)
        held = f"{len(plan.weights)} weights, {size_text(plan.weight_bytes)}"
        print(f"{a.plan}: good; {held}, all digests match, every step reads what was written")
    return 0
