"""Adds a pass and shows its effect: python examples/a_pass.py demo -o report.html

The pass stores the classifier, as a rule the largest matrix that every token reads, in bf16. The page compares the
model without it and with it; docs/adding-a-pass.md goes through it step by step.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from graphllm.api.report import report_html, report_subject
from graphllm.ir.builder import Builder
from graphllm.ir.core import Function, Module, Operation, Value, Weight
from graphllm.passes.fold import Lifter
from graphllm.passes.manager import Pass
from graphllm.passes.pipeline import portable
from graphllm.passes.rewrite import names, rebuild


def narrow_classifier(module: Module) -> Module:
    """linear(x, @w) => linear(x, cast(@w.bf16)), where the product is what a function gives"""
    lifter = Lifter(module)
    functions = {name: _narrow(function, lifter) for name, function in module.functions.items()}
    return replace(module, weights=lifter.weights, functions=functions)


def _narrow(function: Function, lifter: Lifter) -> Function:
    builder = Builder()
    builder.reserve(names(function))
    for op in function.ops:
        if op.name == "linear" and op.result in function.results:
            x, weight = op.operands
            if isinstance(weight, Weight) and weight.type.dtype == "f32":
                narrow = Value(f"{weight.name}.bf16", replace(weight.type, dtype="bf16"))
                stored = lifter.lift(Operation("cast", (weight,), {"dtype": "bf16"}, (narrow,)))
                (wide,) = builder.emit("cast", (stored,), {"dtype": "f32"}, f"{weight.name}.f32")
                op = replace(op, operands=(x, wide))
        builder.append(op)
    return rebuild(function, builder.ops, {})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a plan or a checkpoint; demo: our own")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"))
    arguments = parser.parse_args()

    *most, cse, dce = portable()  # it goes before the two that clean up
    passes = (*most, Pass("narrow-classifier", narrow_classifier), cse, dce)
    subjects = [report_subject(arguments.model), report_subject(arguments.model, passes=passes)]
    arguments.output.write_text(report_html(subjects), encoding="utf-8")
    for subject in subjects:
        last = subject.snapshots[-1].counts
        stored = sum(w.type.bytes for w in subject.lowered.stored_weights())
        print(f"{last['bytes_per_step']} bytes a token, {stored} bytes of weights")
    print(f"written: {arguments.output}")
