"""Native code where a process ends in mid-step, and what a step may not do: take memory, or wait for a lock."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from graphllm.codegen.cpu.generate import generate
from graphllm.codegen.cpu.order import weight_names
from graphllm.compiler.native import build
from graphllm.errors import RunError
from graphllm.runtime.cpu_device import CpuDevice
from tests.cpu_models import SANITIZER, cpu_device, cpu_lowered, quick_builds

__all__ = ["quick_builds"]
pytestmark = pytest.mark.usefixtures("quick_builds")

STEPS = """
import sys, threading, time
sys.path.insert(0, {root!r})
from tests.cpu_models import build, cpu_device, cpu_lowered
build.FLAGS = {flags!r}
model = cpu_lowered("one_layer")
device = cpu_device(model.module, model.weights, threads={threads})


def steps():
    i = 0
    while True:
        device.row(3, i % 40, 0)
        i += 1


"""
MAIN = "print('going', flush=True)\nsteps()\n"
BESIDE = "threading.Thread(target=steps, daemon=True).start()\ntime.sleep(0.3)\nprint('going', flush=True)\n"


def begun(end: str, threads: int) -> subprocess.Popen[str]:
    """A process that takes steps without end."""
    root = str(Path(__file__).parent.parent)
    code = STEPS.format(root=root, flags=build.FLAGS, threads=threads) + end
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "going\n"
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_killed_in_mid_step(name: str, threads: int) -> None:
    """The process ends, by that signal and no other, with all its threads."""
    process = begun(MAIN, threads)
    time.sleep(0.1)
    process.send_signal(number := signal.Signals[name])
    _, said = process.communicate(timeout=120)
    assert process.returncode == -number, said
    assert said.rstrip().endswith("KeyboardInterrupt") if name == "SIGINT" else not said


@pytest.mark.parametrize("threads", [1, 4])
def test_a_program_that_ends_while_its_thread_is_in_a_step(threads: int) -> None:
    """Memory is let go after the step, and no step follows."""
    for _ in range(3):
        process = begun(BESIDE, threads)
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")


def test_a_step_after_the_closing_is_refused() -> None:
    model = cpu_lowered("one_layer")
    device = cpu_device(model.module, model.weights, threads=2)
    device.close()
    for step in (lambda: device.row(1, 0, 0), lambda: device.block("prefill_8", [1, 2], 0, 0)):
        with pytest.raises(RunError, match=r"^model: it was closed; load it again$"):
            step()


# A library's own calls go through counters of ours.
COUNTED: Final = {
    "malloc": "void* {}(size_t a)",
    "calloc": "void* {}(size_t a, size_t b)",
    "realloc": "void* {}(void* a, size_t b)",
    "posix_memalign": "int {}(void** a, size_t b, size_t c)",
    "aligned_alloc": "void* {}(size_t a, size_t b)",
    "_Znwm": "void* {}(size_t a)",
    "_Znam": "void* {}(size_t a)",
    "pthread_mutex_lock": "int {}(pthread_mutex_t* a)",
    "pthread_cond_wait": "int {}(pthread_cond_t* a, pthread_mutex_t* b)",
    "pthread_create": "int {}(pthread_t* a, const pthread_attr_t* b, void* (*c)(void*), void* d)",
}


def counters() -> str:
    lines = ["#include <pthread.h>", "#include <cstddef>", "static std::atomic<long> counted{0};", 'extern "C" {']
    for name, declared in COUNTED.items():
        arguments = ", ".join("abcd"[: declared.count(",") + 1] if "(*c)" not in declared else "abcd")
        lines += [f"{declared.format('__real_' + name)};", f"{declared.format('__wrap_' + name)} {{"]
        lines += [f"    counted.fetch_add(1);\n    return __real_{name}({arguments});", "}"]
    return "\n".join([*lines, "long counted_calls() { return counted.load(); }", "}", ""])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the linker's --wrap")
@pytest.mark.skipif(bool(SANITIZER), reason="sanitizers take memory themselves")
@pytest.mark.parametrize(("storage", "kv_dtype"), [("int8", "f16"), ("bf16", "i8"), ("f32", "f32")])
def test_a_step_takes_no_memory_and_no_lock(storage: Any, kv_dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the opening, which takes all there is to take."""
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, *(f"-Wl,--wrap={name}" for name in COUNTED)))
    model = cpu_lowered("everything", storage, kv_dtype=kv_dtype)
    library = build.built(generate(model.module) + counters())
    device = CpuDevice(
        model.module,
        library,
        weight_names(model.module),
        model.weights.__getitem__,
        threads=3,
    )
    calls = ctypes.CDLL(str(library)).counted_calls
    calls.restype = ctypes.c_long
    opening = calls()
    assert opening >= 3  # its own memory, the team's, its threads'
    rng = np.random.default_rng(1)
    for name, function in model.module.functions.items():
        rows = function.inputs[0].type.shape[0]
        given = {"ids": rng.integers(0, 50, rows).tolist(), "pos": list(range(rows))}
        given |= {"slot": [0] * rows if function.rows == "consecutive" else list(range(rows)), "rows": [0]}
        device.step(name, given)
        assert calls() == opening, name
