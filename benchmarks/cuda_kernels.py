"""Compiles every kernel of the reference shapes for every architecture, and says what they take: a table, as Markdown.

    python -m benchmarks.cuda_kernels [--arch sm_90,sm_120] [--shape llama-3-8b]

No GPU is needed. Tests compile a part of this: all for sm_90, a shape or its decode for the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from benchmarks.cuda_shapes import ALL_SHAPES, Shared, cuda_model, distinct_kernels
from graphllm.compiler.nvrtc.build import built
from graphllm.compiler.nvrtc.cubin import Resources
from graphllm.runtime.cuda.arch import ARCHS

SHAPES = ("tinyllama-1.1b", "llama-3.2-1b", "qwen2.5-0.5b")


def main() -> None:
    """Compile what is asked for and print a line for each architecture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default=",".join(ARCHS), help="architectures, separated by commas (default: all)")
    parser.add_argument("--shape", action="append", choices=sorted(ALL_SHAPES), help="a shape, and others (default: 3)")
    asked = parser.parse_args()
    models = [cuda_model(name, stored) for name in asked.shape or SHAPES for stored in ("bf16", "int8")]
    kernels = distinct_kernels(models)
    decode = {k.kernel.name for k in kernels if k.of("decode")}
    count = sum(len(m.program.kernels) for m in models)
    print(f"{count} kernels of {len(models)} models, {len(kernels)} of them distinct")
    print("\n| arch | seconds | registers: decode | prompts | spilled bytes: decode | prompts |")
    print("|---|---|---|---|---|---|")
    for arch in asked.arch.split(","):
        print(_line(arch, kernels, decode), flush=True)


def _line(arch: str, kernels: Sequence[Shared], decode: set[str]) -> str:
    begin = time.perf_counter()
    made = {name: cubin.resources for (name, _), cubin in built([k.kernel for k in kernels], [arch]).items()}
    seconds = time.perf_counter() - begin
    steps = [r for name, r in made.items() if name in decode]
    prompts = [r for name, r in made.items() if name not in decode]
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
