"""The tests of kernels are tested: what is planted is caught, by its name and line, whatever the order of threads.

Each fault is a kernel that is right but for one thing, beside its right twin, in which nothing must be found.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from graphllm.errors import DeviceError
from graphllm.plan.launch import Kernel
from tests.cuda_simulator import SANITIZER, SEEDS, Work, kernel, library, line_of, run

Array = NDArray[Any]
SHARED = (
    "    GRAPHLLM_SHARED(shared);\n    float* s = reinterpret_cast<float*>(shared);\n    const int t = threadIdx.x;"
)
LAST = """    GRAPHLLM_SHARED(shared);
    int* last = reinterpret_cast<int*>(shared);
    part[blockIdx.x * blockDim.x + threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    {before}
    if (threadIdx.x == 0) {{
        {fence}
        *last = atomic_add(count, 1u) == gridDim.x - 1;
        fence();
    }}
    sync_block();
    if (*last) {{
        float sum = 0;
        for (unsigned i = 0; i < gridDim.x; ++i) sum += part[i * blockDim.x + threadIdx.x];
        y[threadIdx.x] = sum;
        if (threadIdx.x == 0) *count = 0;
    }}"""
XY = "const float* x, float* y"
PARTS = "const float* x, float* part, unsigned* count, float* y"


def pair(name: str, parameters: str, body: str, right: str, wrong: str) -> tuple[Kernel, Kernel]:
    """The kernel with the right line, and the one with the wrong line."""
    return (
        kernel(name, parameters, body.replace("LINE", right)),
        kernel(f"{name}_wrong", parameters, body.replace("LINE", wrong)),
    )


def late(name: str, first: str) -> Kernel:
    """A kernel that says for itself when it waits."""
    head = '#include "prelude.cuh"\nusing namespace graphllm;\nextern "C" __global__ void '
    return Kernel(name, f"{head}{name}({XY}) {{\n    const int t = threadIdx.x;\n{first}\n}}\n", "")


BARRIER = pair("barrier", XY, f"{SHARED}\n    s[t] = x[t];\n    LINE\n    y[t] = s[t ^ 33];", "sync_block();", "")
WARP = pair("warp", XY, f"{SHARED}\n    s[t] = x[t];\n    LINE\n    y[t] = s[t ^ 5];", "sync_warp();", "sync_warp;")
SHUFFLE = kernel("shuffle_orders_nothing", XY, f"{SHARED}\n    s[t] = x[t];\n    shuffle(0u, 0);\n    y[t] = s[t ^ 5];")
REUSE = pair(
    "reuse",
    XY,
    f"{SHARED}\n    s[t] = x[t];\n    sync_block();\n    const float a = s[t ^ 33];\n    LINE\n    s[t] = a;",
    "sync_block();",
    "",
)
COPY = pair(
    "copy",
    XY,
    f"{SHARED}\n    copy_async(s + 4 * t, x + 4 * t, true);\n    copies_commit();\n    LINE\n    sync_block();\n"
    "    for (int i = 0; i < 4; ++i) y[4 * t + i] = s[(4 * t + i) ^ 64];",
    "copies_wait<0>();",
    "copies_wait<1>();",
)
BOUNDS = pair("bounds", XY, f"{SHARED}\n    s[t] = x[t];\n    sync_block();\n    y[t] = s[LINE];", "t ^ 1", "t + 1")
STORE = pair("store", XY, f"{SHARED}\n    s[LINE] = x[t];\n    sync_block();\n    y[t] = s[t];", "t", "t + (t == 63)")
GLOBAL = pair("outside", XY, "    y[threadIdx.x] = x[LINE];", "threadIdx.x", "threadIdx.x + 1")
GLOBAL_STORE = pair("outside_store", XY, "    y[LINE] = x[threadIdx.x];", "threadIdx.x", "int(threadIdx.x) - 1")
GRID = pair("grid", XY, "    LINE = x[threadIdx.x];", "y[threadIdx.x + 64 * blockIdx.x]", "y[threadIdx.x]")
ALIGNED = pair("aligned", XY, "    y[threadIdx.x] = as_float(load_once(x + LINE).word[0]);", "4", "threadIdx.x % 2")
ARRIVALS = (
    kernel("arrivals", PARTS, LAST.format(before="sync_block();", fence="fence();")),
    kernel("arrivals_unfenced", PARTS, LAST.format(before="sync_block();", fence="")),
    kernel("arrivals_unmet", PARTS, LAST.format(before="", fence="fence();")),
)
DIVERGENT = (
    kernel(
        "two_places",
        XY,
        "    if (threadIdx.x < 32) {\n        sync_block();\n    } else {\n        sync_block(  );\n    }",
    ),
    kernel("some_lanes", XY, "    if (threadIdx.x % 32 < 7)\n        sync_warp();\n    sync_block();"),
    kernel(
        "two_shuffles", XY, "    if (threadIdx.x < 9)\n        shuffle(1u, 0);\n    else\n        shuffle_xor(1u, 1);"
    ),
    kernel("ended_lane", XY, "    if (threadIdx.x == 9) return;\n    shuffle(1u, 9);"),
)
WAITS = (
    late("first", "    wait_for_producers();\n    y[t] = x[t] + 1;"),
    late("second", "    const float early = 0;\n    wait_for_producers();\n    y[t] = x[t] * 2 + early;"),
    late("second_early", "    const float early = x[t];\n    wait_for_producers();\n    y[t] = early * 2;"),
    late("second_hasty", "    y[t] = 0;\n    wait_for_producers();\n    y[t] = x[t] * 2;"),
    late("never_waits", "    y[t] = x[t];"),
    late("first_waits", "    if (t == 0) wait_for_producers();\n    sync_block();\n    y[t] = x[t] * 2;"),
)
SPIN = kernel(
    "spin",
    "unsigned* n, unsigned* y",
    "    atomic_add(n, 1u);\n    while (atomic_add(n, 0u) < gridDim.x * 32) {}\n"
    "    y[blockIdx.x * 32 + threadIdx.x] = 7;",
)
ALL = (
    *(k for two in (BARRIER, WARP, REUSE, COPY, BOUNDS, STORE, GLOBAL, GLOBAL_STORE, GRID, ALIGNED) for k in two),
    *(SHUFFLE, *ARRIVALS, *DIVERGENT, *WAITS, SPIN),
)


def go(work: Work, seed: int = 0, watch: bool = True, **arrays: Array) -> dict[str, Array]:
    arrays = arrays or {"x": np.arange(256, dtype=np.float32), "y": np.zeros(256, np.float32)}
    return run(library(ALL, watch=watch), [work], arrays, seed=seed)


def refused(work: Work, words: str, watch: bool = True, **arrays: Array) -> None:
    """Refused in so many words, whatever the seed."""
    for seed in SEEDS[:4]:
        with pytest.raises(DeviceError, match=words):
            go(work, seed, watch, **arrays)


def at(k: Kernel, text: str) -> str:
    return rf"{k.name}:{line_of(k, text)}\b"


CASES = {
    "a barrier that is missing": (
        BARRIER,
        64,
        256,
        "y[t] =",
        "a race; thread .* (wrote|read) it at .* with no barrier",
    ),
    "one of a warp that is missing": (
        WARP,
        32,
        128,
        "y[t] =",
        "a race; thread .* (wrote|read) it at .* with no barrier",
    ),
    "memory reused too early": (REUSE, 64, 256, "s[t] = a", "a race; thread .* (wrote|read) it at .* with no barrier"),
    "a copy that is not waited for": (COPY, 32, 512, "y[4 * t", "a copy to there is on its way"),
    "reading past shared memory": (BOUNDS, 64, 256, "y[t] =", r"shared memory \+256 of 256 bytes: out of bounds"),
    "writing past shared memory": (STORE, 64, 256, "s[t + ", r"shared memory \+256 of 256 bytes: out of bounds"),
    "reading past an argument": (GLOBAL, 256, 0, "x[thread", r"argument 0 \+1024 of 1024 bytes: out of bounds"),
    "writing ahead of an argument": (GLOBAL_STORE, 64, 0, "y[int", "writes 4 bytes .*: out of bounds"),
    "a load that is not aligned": (ALIGNED, 32, 0, "load_once", "misaligned; expected a multiple of 16"),
}


@pytest.mark.parametrize("what", CASES)
def test_planted(what: str) -> None:
    (right, wrong), block, shared, text, words = CASES[what]
    names, written = ("x", "y"), ("y",)
    for seed in SEEDS:
        go(Work(right.name, names, block=block, shared=shared, written=written), seed)
    place = at(wrong, text)
    work = Work(wrong.name, names, block=block, shared=shared, written=written)
    refused(work, rf"kernel {wrong.name}, block \(0, 0\): thread \d+: .*{place}.*")
    refused(work, words)


def test_a_race_of_two_blocks() -> None:
    right, wrong = GRID
    go(Work(right.name, ("x", "y"), grid=(4, 1), block=64))
    work = Work(wrong.name, ("x", "y"), grid=(4, 1), block=64)
    refused(work, rf"{at(wrong, 'y[thread')}.*: a race; thread \d+ of block \(\d, 0\) wrote it at .* nothing to order")


def test_a_shuffle_orders_no_memory() -> None:
    work = Work(SHUFFLE.name, ("x", "y"), shared=128)
    refused(work, at(SHUFFLE, "y[t] ="))
    refused(work, r": a race; thread \d+ (wrote|read) it at .* with no barrier between")


def test_the_last_to_arrive_sees_what_the_others_have_written() -> None:
    names = ("x", "part", "count", "y")
    arrays = {n: np.arange(256, dtype=np.float32) for n in ("x", "part", "y")} | {"count": np.zeros(1, np.uint32)}
    for seed in SEEDS:
        out = go(Work("arrivals", names, grid=(4, 1), block=64, shared=16), seed, **arrays)
        np.testing.assert_array_equal(out["y"][:64], arrays["x"].reshape(4, 64).sum(0))
        assert out["count"][0] == 0
    for name in ("arrivals_unfenced", "arrivals_unmet"):
        words = rf"kernel {name}, .*argument 1 .*: a race; thread \d+ of block .* nothing to order"
        refused(Work(name, names, grid=(4, 1), block=64, shared=16, written=names[1:]), words, **arrays)


def test_a_write_that_the_launch_does_not_tell() -> None:
    work = Work("outside", ("x", "y"), block=64, written=())
    refused(work, "writes 4 bytes .*argument 1 .*: the launch may only read it")
    work = Work("outside", ("x", "y"), block=64, written=("y",), short={"x": 200})
    refused(work, r"reads 4 bytes .*argument 0 \+\d+ of 200 bytes: out of bounds")


@pytest.mark.parametrize("watch", [True, False])
def test_threads_that_do_not_meet(watch: bool) -> None:
    """These need no look at memory. The report has the kernel, the line, and who waits where."""
    two, some, shuffles, ended = DIVERGENT
    lines = f"({at(two, 'sync_block();')}|{at(two, 'sync_block(  );')})"
    refused(Work(two.name, ("x", "y"), block=64), rf"kernel two_places, block \(0, 0\): .*{lines}.*{lines}", watch)
    words = (
        rf"kernel some_lanes, .* wait for each other for ever: .*threads from 0 on wait for the warp at "
        rf"{at(some, 'sync_warp')}.*57 threads.*{at(some, 'sync_block')}"
    )
    with pytest.raises(DeviceError) as told:
        go(Work(some.name, ("x", "y"), block=32), 0, watch)
    assert re.search(r"kernel some_lanes, block \(0, 0\): its threads wait for each other for ever", str(told.value))
    for text, count in (("sync_warp", 7), ("sync_block", 25)):
        assert re.search(rf"{count} threads from \d+ on wait for the \w+ at {at(some, text)}", str(told.value)), words
    refused(Work(shuffles.name, ("x", "y"), block=32), "shuffle at .*others of its warp are in shuffle at", watch)
    refused(Work(ended.name, ("x", "y"), block=32), "lane 9, which has ended|others of its warp are in shuffle", watch)


def test_a_launch_that_begins_before_the_one_ahead_has_ended() -> None:
    arrays = {n: np.arange(64, dtype=np.float32) for n in ("x", "y", "z")}

    def both(second: str, seed: int, watch: bool = True, ahead: bool = True) -> Array:
        works = [Work("first", ("x", "y"), block=64), Work(second, ("y", "z"), block=64)]
        return run(library(ALL, watch=watch), works, arrays, seed=seed, ahead=ahead)["z"]

    for seed in range(12):
        for watch in (True, False):
            np.testing.assert_array_equal(both("second", seed, watch), arrays["x"] * 2 + 2)
            np.testing.assert_array_equal(both("first_waits", seed, watch), arrays["x"] * 2 + 2)
    early = "in an earlier launch, and has not waited|in a later launch that had not waited"
    for seed in SEEDS:
        for ahead in (True, False):
            with pytest.raises(DeviceError, match=early):
                both("second_early", seed, ahead=ahead)
    if not SANITIZER:  # without a look at memory, it is what comes out that shows it, where it does begin early
        wrong = [seed for seed in range(12) if (both("second_early", seed, watch=False) != arrays["x"] * 2 + 2).any()]
        assert 3 < len(wrong) < 12
    words = "kernel never_waits: has ended, and none of its threads has called wait_for_producers"
    refused(Work("never_waits", ("x", "y"), block=64), words)
    refused(Work("never_waits", ("x", "y"), block=64), words, watch=False)


def test_what_a_later_launch_writes_too_early() -> None:
    arrays = {n: np.arange(64, dtype=np.float32) for n in ("x", "y")}
    works = [Work("first", ("x", "y"), block=64), Work("second_hasty", ("x", "y"), block=64)]
    for seed in SEEDS:
        with pytest.raises(DeviceError, match=r"writes 4 bytes .*|in a later launch that had not waited"):
            run(library(ALL), works, arrays, seed=seed)


def test_without_a_look_at_memory_the_order_of_threads_shows_faults() -> None:
    for two, block, shared in ((BARRIER, 64, 256), (REUSE, 64, 256), (COPY, 32, 512)):
        seen: list[set[bytes]] = []
        for k in two:
            work = Work(k.name, ("x", "y"), block=block, shared=shared)
            seen.append({go(work, seed, watch=False)["y"].tobytes() for seed in range(8)})
        assert len(seen[0]) == 1
        if two is not REUSE:
            assert all(np.isnan(np.frombuffer(y, np.float32)).any() for y in seen[1])
    wrong = STORE[1]
    if not SANITIZER:
        refused(Work(wrong.name, ("x", "y"), block=64, shared=256), "written outside its 256 bytes", watch=False)


def test_blocks_that_wait_for_each_other() -> None:
    arrays = {"n": np.zeros(1, np.uint32), "y": np.zeros(96, np.uint32)}
    work = Work("spin", ("n", "y"), grid=(3, 1))
    out = run(library(ALL), [work], arrays, together=True)
    np.testing.assert_array_equal(out["y"], 7)
    with pytest.raises(DeviceError, match=r"kernel spin, .* spins, and nothing changes"):
        run(library(ALL, watch=False), [work], arrays)
