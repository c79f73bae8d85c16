"""A CUDA program as a text to read: every kernel, and the launches of every function."""

from __future__ import annotations

from graphllm.plan.launch import Launch, Program, Stream


def listing(program: Program) -> str:
    """The kernels one after another, each a translation unit of its own, then what is launched."""
    parts = [f"// ---- {name}.cu\n\n{kernel.text.rstrip()}\n" for name, kernel in program.kernels.items()]
    parts += [_stream(stream) for stream in program.streams.values()]
    return "\n\n".join(parts) + "\n"


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
