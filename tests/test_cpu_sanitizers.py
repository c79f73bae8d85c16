"""Native code under the compiler's sanitizers: no byte outside what it was given, no undefined step, no race.

Existing tests run again in a process of their own whose libraries are built with a sanitizer: models of every storage,
lone operations at odd sizes, several threads. A planted fault shows that the sanitizer looks.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from graphllm.compiler.native.isa import cpu_features
from graphllm.compiler.native.toolchain import compiler_command

ROOT = Path(__file__).parents[1]
ADDRESS = ("address,undefined", "-fsanitize=address,undefined -fno-sanitize-recover=undefined")
THREAD = ("thread", "-fsanitize=thread")
REPORT = re.compile(r"Sanitizer|runtime error:")
PLANTED = {
    "address,undefined": "int main() { int* p = new int[4]; volatile int i = 4; return p[i]; }",
    "thread": "#include <thread>\nint x; int main() { std::thread t([] { ++x; }); ++x; t.join(); return x - x; }",
}


def library(name: str) -> Path | None:
    """The runtime of a sanitizer, which must be in a process before anything else."""
    found = compiler_command()
    if found is None:
        return None
    done = subprocess.run([*found, f"-print-file-name={name}"], capture_output=True, text=True, check=False, timeout=60)
    path = Path(done.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def surroundings(tmp_path: Path, kind: tuple[str, str], names: list[str], **extra: str) -> dict[str, str]:
    """The environment of a process whose libraries are sanitized."""
    loaded = [library(n) for n in names]
    if None in loaded:
        pytest.skip(f"the C++ compiler has no runtime for -fsanitize={kind[0]}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    alone = ("env", "-u", "LD_PRELOAD", *(compiler_command() or ()))  # compilers take twice as long with it
    return environment | {
        "CXX": shlex.join(alone),
        "LD_PRELOAD": " ".join(map(str, loaded)),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "TSAN_OPTIONS": "report_bugs=1 exitcode=66 halt_on_error=1",
        "GRAPHLLM_TEST_SANITIZER": kind[1],
        "GRAPHLLM_CACHE": str(tmp_path),
        "OPENBLAS_NUM_THREADS": "1",  # whose own threads are not what is asked about
        **extra,
    }


def sanitized(tmp_path: Path, kind: tuple[str, str], names: list[str], *tests: str, **extra: str) -> str:
    """Run tests with sanitized libraries; what they print."""
    environment = surroundings(tmp_path, kind, names, **extra)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    assert " passed" in said
    assert not REPORT.search(said), said[-6000:]
    return said


@pytest.mark.parametrize("isa", ["native", "avx2", "portable"])
def test_no_byte_out_of_place(tmp_path: Path, isa: str) -> None:
    if isa == "avx2" and "avx512f" not in cpu_features():
        pytest.skip("this CPU has no AVX-512: what is native is AVX2")
    sanitized(
        tmp_path,
        ADDRESS,
        ["libasan.so", "libubsan.so"],
        "tests/test_cpu_generate.py::test_lone_operations",
        "tests/test_cpu_generate.py::test_every_kernel_of_a_model",
        "-k",
        "lone_operations or of_a_model and odd" if isa == "native" else "lone_operations",
        GRAPHLLM_ISA=isa,
    )


def test_no_race(tmp_path: Path) -> None:
    sanitized(
        tmp_path, THREAD, ["libtsan.so"], "tests/test_cpu_device.py", "-k", "number_of_threads and odd or many_python"
    )


@pytest.mark.parametrize(
    ("kind", "runtime"), [(ADDRESS, "libasan.so"), (THREAD, "libtsan.so")], ids=["address", "thread"]
)
def test_a_planted_fault_is_seen(tmp_path: Path, kind: tuple[str, str], runtime: str) -> None:
    if library(runtime) is None:
        pytest.skip(f"the C++ compiler has no runtime for -fsanitize={kind[0]}")
    found = compiler_command()
    assert found is not None
    source, program = tmp_path / "fault.cpp", tmp_path / "fault"
    source.write_text(PLANTED[kind[0]])
    subprocess.run([*found, "-O1", "-pthread", *kind[1].split(), str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert REPORT.search(done.stderr)
