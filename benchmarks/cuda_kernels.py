"""Compiles every kernel of the reference shapes for every architecture, and says what they take: a table, as Markdown.

    python -m benchmarks.cuda_kernels [--arch sm_90,sm_120] [--shape llama-3-8b]
    python -m benchmarks.cuda_kernels --write tests/golden/cuda_resources.txt    # what tests compare with, by kind

No GPU is needed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cuda_resources import ResourceTable, launch_columns, register_column
from benchmarks.cuda_shapes import ALL_SHAPES, Shared, cuda_model, distinct_kernels
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.cubin import Resources
from graphllm.compiler.nvrtc.library import nvrtc_version
from graphllm.runtime.cuda.arch import ARCHS

SHAPES = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")


def main() -> None:
    """Compile what is asked for and print a line for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default=",".join(ARCHS), help="architectures, separated by commas (default: all)")
    parser.add_argument("--shape", action="append", choices=sorted(ALL_SHAPES), help="a shape, and others (default: 3)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="registers and shared memory by kind of kernel")
    asked = parser.parse_args()
    models = [cuda_model(name, stored) for name in asked.shape or SHAPES for stored in ("bf16", "int8")]
    kernels = distinct_kernels(models)
    decode = {k.kernel.name for k in kernels if k.of("decode")}
    count = sum(len(m.program.kernels) for m in models)
    print(f"{count} kernels of {len(models)} models, {len(kernels)} of them distinct")
    print("\n| arch | seconds | registers: decode | prompts | spilled bytes: decode | prompts |")
    print("|---|---|---|---|---|---|")
    columns = launch_columns(kernels)
    for arch in asked.arch.split(","):
        begin = time.perf_counter()
        took = {name: cubin.resources for (name, _), cubin in built([k.kernel for k in kernels], [arch]).items()}
        print(_line(arch, time.perf_counter() - begin, kernels, took, decode), flush=True)
        columns[arch] = register_column(kernels, took)
    if asked.write is not None:
        asked.write.write_text(ResourceTable(nvrtc_version().split()[0], columns).text(), encoding="utf-8")


def _line(arch: str, seconds: float, kernels: Sequence[Shared], took: dict[str, Resources], decode: set[str]) -> str:
    steps = [r for name, r in took.items() if name in decode]
    prompts = [r for name, r in took.items() if name not in decode]
    cells = [arch, f"{seconds:.0f}", *map(_registers, (steps, prompts)), *map(_spills, (steps, prompts))]
    return f"| {' | '.join(cells)} |"


def _registers(took: Sequence[Resources]) -> str:
    """The most, and the median."""
    numbers = sorted(r.registers for r in took)
    return f"{numbers[-1]} ({numbers[len(numbers) // 2]})"


def _spills(took: Sequence[Resources]) -> str:
    spilled = [r.spilled for r in took if r.spilled]
    return f"{max(spilled)} in {len(spilled)} of {len(took)}" if spilled else "0"


if __name__ == "__main__":
    main()
