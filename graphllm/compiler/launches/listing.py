"""A CUDA program as a text to read: every kernel, and the launches of every function."""

from __future__ import annotations

from graphllm.codegen.cuda.generate import generate
from graphllm.ir.core import Module
from graphllm.plan.launch import Launch, Program, Stream


def listing(program: Program) -> str:
    """The kernels one after another, each a translation unit of its own, then what is launched."""
    parts = [f"// ---- {name}.cu\n\n{kernel.text.rstrip()}\n" for name, kernel in program.kernels.items()]
    parts += [_stream(stream) for stream in program.streams.values()]
    return "\n\n".join(parts) + "\n"


def cuda_kernels(module: Module) -> dict[str, list[str]]:
    """For each function which kernel each of its operations launches last, '' for none. Raises PlanError."""
    return {name: [all_[-1].kernel if all_ else "" for all_ in of] for name, of in _by_operation(module).items()}


def cuda_launches(module: Module) -> dict[str, list[str]]:
    """For each function what each of its operations launches, as text, '' for nothing. Raises PlanError."""
    return {
        name: [", ".join(_launch(launch).removeprefix("//   ") for launch in all_) for all_ in of]
        for name, of in _by_operation(module).items()
    }


def _by_operation(module: Module) -> dict[str, list[list[Launch]]]:
    """The launches of every operation; of some that share one, the first has it."""
    out: dict[str, list[list[Launch]]] = {}
    for name, stream in generate(module).streams.items():
        out[name] = [[] for _ in module.functions[name].ops]
        for launch in stream.launches:
            if launch.op >= 0:
                out[name][launch.op].append(launch)
    return out


def _stream(stream: Stream) -> str:
    chunks = (
        f", chunks of {stream.chunk} keys: graphs for {', '.join(map(str, stream.buckets))}" if stream.chunk else ""
    )
    lines = [f"// ---- {stream.name}: {len(stream.launches)} launches a step{chunks}"]
    lines += [_launch(launch) for launch in stream.launches]
    lines += [f"{_launch(launch)}, where the device chooses" for launch in stream.choice]
    return "\n".join(lines)


def _launch(launch: Launch) -> str:
    grid = f"{launch.grid[0]} x {'chunks' if launch.chunked else launch.grid[1]}"
    return f"//   {launch.kernel}<<<{grid}, {launch.block}, {launch.shared}>>>"
