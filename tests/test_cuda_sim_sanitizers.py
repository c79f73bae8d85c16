"""The simulator under the compiler's own sanitizers: they look at the simulator itself as well as at kernels.

Existing tests run again in a process of their own. Planted faults show that the sanitizers look, across fibers too.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cpu_sanitizers import ADDRESS, ROOT, sanitized, surroundings

QUICK = (ADDRESS[0], f"{ADDRESS[1]} -O0")  # built in half the time
NAMES = ["libasan.so", "libubsan.so"]
PLANTED = {
    "shared memory": ("s[32 + threadIdx.x % 2] = 1;", "AddressSanitizer: use-after-poison"),
    "an argument": ("y[threadIdx.x + 1] = 1;", "AddressSanitizer: heap-buffer-overflow"),
    "a thread's own": (
        "volatile float own[4]; volatile float* volatile p = own; y[0] = p[4];",
        "AddressSanitizer: stack-buffer-overflow",
    ),
    "arithmetic": ("int i = threadIdx.x + 0x7fffffff - 31; y[0] = i + 31;", "runtime error: signed integer overflow"),
}
PROGRAM = """
import numpy as np
from tests.cuda_simulator import Work, kernel, library, run
k = kernel("fault", "float* y", '''GRAPHLLM_SHARED(shared);
float* s = reinterpret_cast<float*>(shared);
s[threadIdx.x] = 1; sync_block(); shuffle(0u, 0);
{}''')
run(library((k,)), [Work("fault", ("y",), shared=128)], {{"y": np.zeros(32, np.float32)}})
"""


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: the simulator is built once."""
    folder = tmp_path_factory.getbasetemp() / "sanitized-cache"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder


def test_intrinsics_and_a_model(cache: Path) -> None:
    faults = "tests/test_cuda_sim_faults.py"
    tests = (
        "tests/test_cuda_sim_intrinsics.py",
        f"{faults}::test_blocks_that_wait_for_each_other",
        f"{faults}::test_threads_that_do_not_meet",
        "tests/test_cuda_models.py::test_tiny",
    )
    sanitized(cache, QUICK, NAMES, *tests, "-k", "not sm_75 and not tiny or llama_odd")


@pytest.mark.parametrize("where", PLANTED)
def test_what_is_planted_is_seen(cache: Path, where: str) -> None:
    text, words = PLANTED[where]
    environment = surroundings(cache, QUICK, NAMES)
    command = [sys.executable, "-c", PROGRAM.format(text)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode != 0
    assert words in done.stderr, done.stderr[-3000:]
