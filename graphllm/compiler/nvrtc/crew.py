"""Other processes that compile kernels: started, fed over pipes, and gone when they are no longer needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

from graphllm.compiler.nvrtc import worker
from graphllm.compiler.nvrtc.cubin import Cubin
from graphllm.errors import NativeError
from graphllm.plan.launch import Kernel


class Member:
    """One process. It ends when its input does, so when we end in whatever way."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process: subprocess.Popen[str] | None = None
        with suppress(OSError):  # no process to be had: whoever asked compiles by himself
            self._process = subprocess.Popen(
                [sys.executable, "-m", worker.__name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
                encoding="utf-8",
            )

    def build(self, kernel: Kernel, arch: str) -> Cubin | None:
        """As ``build.compiled``, in the other process; None where that has failed. Raises NativeError."""
        answer = self._asked({"name": kernel.name, "text": kernel.text, "ir": kernel.ir, "arch": arch})
        if "error" in answer:
            raise NativeError(str(answer["error"]))
        if "code" not in answer:
            self.end()
            return None
        return Cubin(kernel.name, arch, bytes.fromhex(answer["code"]), str(answer["log"]))

    def _asked(self, question: dict[str, str]) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return {}
        try:
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (OSError, ValueError):
            return {}

    def end(self) -> None:
        """Stop it; what it was compiling is dropped."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


class Crew:
    """So many other processes, for the length of a ``with``."""

    def __init__(self, count: int) -> None:
        self.members = [Member() for _ in range(count)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for member in self.members:
            member.end()
