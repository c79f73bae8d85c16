"""The other end of ``crew``: a kernel a line as JSON, machine code and log back, until the input ends."""

from __future__ import annotations

import json
import sys
from contextlib import suppress


def serve() -> None:
    """Compile what comes in on standard input."""
    from graphllm.compiler.nvrtc.build import compiled
    from graphllm.errors import GraphLLMError
    from graphllm.plan.launch import Kernel

    for line in sys.stdin:
        asked = json.loads(line)
        try:
            cubin = compiled(Kernel(asked["name"], asked["text"], asked["ir"]), asked["arch"])
            answer = {"code": cubin.code.hex(), "log": cubin.log}
        except GraphLLMError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        serve()
