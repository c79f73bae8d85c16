"""Kernels that measure a GPU itself: how fast memory can be read and tensor cores multiply, what launches and barriers
cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from graphllm.plan.launch import Kernel
from graphllm.runtime.cuda.driver import Address, Driver, Resolved

HEAD = """#include "prelude.cuh"
using namespace graphllm;
extern "C" __global__ void __launch_bounds__({threads}) {name}("""


@dataclass(frozen=True)
class Reader:
    """A kernel that reads a stretch of memory once, 16 bytes a lane, so many loads on their way at a time."""

    threads: int
    loads: int
    blocks: int
    size: int  # bytes

    @property
    def name(self) -> str:
        return f"read_{self.threads}_{self.loads}_{self.blocks}"

    @property
    def kernel(self) -> Kernel:
        lanes, chunks, n = self.blocks * self.threads, self.size // 16, self.loads
        body = f"""const unsigned* from, unsigned* to) {{
    wait_for_producers();
    const Chunk* at = reinterpret_cast<const Chunk*>(from);
    unsigned seen = 0;
    for (long long i = blockIdx.x * {self.threads}LL + threadIdx.x; i < {chunks}LL; i += {lanes * n}LL) {{
        Chunk held[{n}];
        for (int k = 0; k < {n}; ++k)
            held[k] = i + k * {lanes}LL < {chunks}LL ? load_once(at + i + k * {lanes}LL) : Chunk{{}};
        for (int k = 0; k < {n}; ++k)
            for (int w = 0; w < 4; ++w) seen ^= held[k].word[w];
    }}
    if (seen == 0x9e3779b9u) to[0] = seen;
}}
"""
        return Kernel(self.name, HEAD.format(threads=self.threads, name=self.name) + body, "reading memory once")


EMPTY = Kernel(
    "empty",
    HEAD.format(threads=32, name="empty")
    + "unsigned* to) {\n    let_consumers_start();\n    wait_for_producers();\n    if (to == nullptr) to[1] = 0;\n}\n",
    "nothing",
)


def barrier(blocks: int, rounds: int) -> Kernel:
    """All blocks meet ``rounds`` times at a counter in memory; all must be resident."""
    body = f"""unsigned long long* count) {{
    wait_for_producers();
    for (int round = 1; round <= {rounds}; ++round) {{
        sync_block();
        if (threadIdx.x == 0) {{
            fence();
            atomic_add(count, 1ull);
#ifdef GRAPHLLM_SIM  // where only atomic operations let others have their turn
            while (atomic_add(count, 0ull) < {blocks}ull * round) {{}}
#else
            while (load_fresh(count) < {blocks}ull * round) {{}}
#endif
            fence();
        }}
        sync_block();
    }}
}}
"""
    return Kernel("meet", HEAD.format(threads=128, name="meet") + body, "a barrier of all blocks")


_SUMS = 8  # tiles that a warp adds up at a time: one product does not wait for the last


def dense(rounds: int) -> Kernel:
    """Products of tiles that lie in registers, and nothing else: what tensor cores do at most with ``mma.sync``."""
    body = f"""float* to) {{
    wait_for_producers();
    float sums[{_SUMS}][4] = {{}};
    unsigned a[4], b[2];
    for (int i = 0; i < 4; ++i) a[i] = threadIdx.x * 5 + i;
    for (int i = 0; i < 2; ++i) b[i] = threadIdx.x * 3 + i;
    for (int round = 0; round < {rounds}; ++round)
#pragma unroll
        for (int i = 0; i < {_SUMS}; ++i) mma_f16(sums[i], a, b);
    float all = 0;
    for (int i = 0; i < {_SUMS}; ++i)
        for (int j = 0; j < 4; ++j) all += sums[i][j];
    if (all == 1234.5f) to[0] = all;
}}
"""
    return Kernel("dense", HEAD.format(threads=256, name="dense") + body, "products of tiles in registers")


def seconds(driver: Driver, graph: Any, repeats: int, before: Any = None) -> float:
    """The median time of a graph, each run begun with nothing else on the device."""
    out: list[float] = []
    for _ in range(repeats + 1):
        if before is not None:
            before()
        driver.wait(driver.mark())
        begun = time.perf_counter()
        driver.run(graph)
        driver.wait(driver.mark())
        out.append(time.perf_counter() - begun)
    return median(out[1:])


def read_speed(driver: Driver, readers: list[Reader], buffer: Address, size: int) -> dict[str, float]:
    """Bytes a second of each reader over the whole buffer, which is larger than any cache."""
    out: dict[str, float] = {}
    sink = driver.allocate(256)
    for reader in readers:
        graph = driver.graph([Resolved(reader.name, (reader.blocks, 1), reader.threads, 0, (buffer, sink))])
        out[reader.name] = size / seconds(driver, graph, 5)
    return out


def launch_cost(driver: Driver, count: int) -> float:
    """Seconds that one more empty kernel in a graph takes: a long chain less a short one."""
    place = driver.allocate(256)
    one = Resolved("empty", (1, 1), 32, 0, (place,))
    long, short = driver.graph([one] * count), driver.graph([one])
    return (seconds(driver, long, 20) - seconds(driver, short, 20)) / (count - 1)


def barrier_cost(driver: Driver, blocks: int, rounds: int) -> float:
    """Seconds of one meeting of all blocks."""
    place = driver.allocate(256)
    graph = driver.graph([Resolved("meet", (blocks, 1), 128, 0, (place,))])
    return seconds(driver, graph, 5, before=lambda: driver.fill(place, 256, 0)) / rounds


def dense_peak(driver: Driver, blocks: int, rounds: int) -> float:
    """Floating point operations a second of ``dense``: tiles of 16 x 8 x 16, f16 in, f32 out."""
    place = driver.allocate(256)
    graph = driver.graph([Resolved("dense", (blocks, 1), 256, 0, (place,))])
    return 2 * 16 * 8 * 16 * _SUMS * rounds * 8 * blocks / seconds(driver, graph, 5)


def random_weights(seed: int) -> Any:
    """Weights of any type and size from one block of random numbers, cheaply."""
    import ml_dtypes

    rng = np.random.default_rng(seed)
    floats = (rng.standard_normal(1 << 21) * 0.02).astype(np.float32)
    blocks: dict[str, np.ndarray[Any, Any]] = {
        "f32": floats,
        "f16": floats.astype(np.float16),
        "bf16": floats.astype(ml_dtypes.bfloat16),
        "i8": rng.integers(-127, 128, 1 << 21).astype(np.int8),
    }

    def weight(name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        block = blocks[dtype]
        if name.endswith("scale"):
            block = np.abs(block).astype(block.dtype) / block.dtype.type(64)
        if len(shape) == 1 and "norm" in name:
            return np.ones(shape, block.dtype)
        return np.resize(block, shape)

    return weight
