"""``graphllm show``: a plan, a checkpoint or a file of text IR, seen as a summary, IR, graph, source or memory map."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphllm.cli.choices import seen_options
from graphllm.cli.output import write_text
from graphllm.errors import GraphLLMError

if TYPE_CHECKING:
    from graphllm.api.inspection import Inspection
    from graphllm.ir.core import Module

_BY_SUFFIX = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".json": "json"}


def run(a: argparse.Namespace) -> int:
    from graphllm.api.inspection import inspect
    from graphllm.api.source import source_of

    with suppress(OSError, ValueError):  # one of them is not there
        if a.output is not None and Path(a.output).samefile(a.model):
            raise GraphLLMError(f"{a.output}: the model itself; expected another name for what is shown of it")
    if a.resources is not None and (a.stage or a.memory or (a.source or "cuda") != "cuda"):
        raise GraphLLMError("--resources: of CUDA kernels; expected it alone, or with --source cuda")
    target = "cuda" if a.resources is not None else a.source or None
    write_text(a.output, _shown(inspect(source_of(a.model), seen_options(a, source_of(a.model), target)), a))
    return 0


def _shown(subject: Inspection, a: argparse.Namespace) -> str:
    from graphllm.compiler.quality import quality_text
    from graphllm.compiler.targets import resolve

    suffix = "." + a.output.rsplit(".", 1)[-1] if a.output else ""
    form = a.format or _BY_SUFFIX.get(suffix, "text")
    if a.resources is not None:
        table = _resources(subject, a)
        return table if a.source is None else f"{table}\n\n{subject.source('cuda')}"
    if a.source is not None:
        return subject.source(a.source or resolve(None)[0])
    if a.memory:
        if form not in ("text", "svg"):
            raise GraphLLMError(f"--memory: no {form} of the memory map; expected --format text or svg")
        return _memory(subject, a.function or "decode", form)
    stage = a.stage or "lowered"
    if form == "text" and a.stage is None and a.function is None and a.layer is None:
        told = page(subject.stage(stage), subject.config, subject.passes)
        return told if subject.quality is None else f"{told}\n\n{quality_text(*subject.quality)}"
    module = subject.stage(stage)
    if form == "text":
        from graphllm.view.select import print_selection

        return print_selection(module, a.function, a.layer)
    if form == "json":
        from graphllm.view.as_json import module_json
        from graphllm.view.select import select

        return json.dumps(module_json(select(module, a.function, a.layer)), indent=1)
    if a.layer is not None:
        raise GraphLLMError(f"--layer: a picture in {form} shows whole functions; expected --format text or json")
    from graphllm.view.dot import to_dot
    from graphllm.view.graph import layered_graph
    from graphllm.view.svg_graph import to_svg

    graph = layered_graph(module, a.function or "decode")
    return to_dot(graph) if form == "dot" else to_svg(graph)


def _resources(subject: Inspection, a: argparse.Namespace) -> str:
    from graphllm.codegen.cuda.generate import generate
    from graphllm.compiler.launches.report import resources_text
    from graphllm.compiler.nvrtc.build import built
    from graphllm.runtime.cuda.arch import check_archs
    from graphllm.view.select import pick_function

    (arch,) = check_archs(a.resources)[:1]
    module = subject.lowered_for("cuda")
    name = pick_function(module, a.function or "decode").name
    program = generate(module)
    used = {launch.kernel for launch in (*program.streams[name].launches, *program.streams[name].choice)}
    made = built([program.kernels[kernel] for kernel in program.kernels if kernel in used], [arch])
    return resources_text(program, module, {n: c.resources for (n, _), c in made.items()}, arch, (name,))


def _memory(subject: Inspection, function: str, form: str) -> str:
    from graphllm.view.memory_map import memory_map_svg, memory_map_text
    from graphllm.view.select import pick_function

    planned = pick_function(subject.stage("lowered"), function)
    return memory_map_svg(planned) if form == "svg" else memory_map_text(planned)


def page(module: Module, config: Mapping[str, Any], passes: Sequence[Mapping[str, Any]]) -> str:
    """The summary of a module; of a lowered one with its arenas against their lower bounds."""
    from graphllm.passes.plan_memory import arena_bounds
    from graphllm.view.summary import summary

    bounds = {name: arena_bounds(f)[1] for name, f in module.functions.items() if f.arena is not None}
    return summary(module, config, bounds, passes)
