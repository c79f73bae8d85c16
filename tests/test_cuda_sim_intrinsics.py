"""Every intrinsic of the kernels, on the simulator, against NumPy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import graphllm.codegen.kernels as kernels_package
from tests.cuda_simulator import SEEDS, Work, kernel, library, run

Array = NDArray[Any]
CUDA = Path(kernels_package.__file__).parent / "cuda"
LANE = "const int i = blockIdx.x * blockDim.x + threadIdx.x;"

KERNELS = (
    kernel(
        "indices",
        "unsigned* y",
        f"""{LANE}
    unsigned* at = y + (blockIdx.y * gridDim.x * blockDim.x + i) * 8;
    at[0] = threadIdx.x; at[1] = blockIdx.x; at[2] = blockIdx.y; at[3] = gridDim.x; at[4] = gridDim.y;
    at[5] = blockDim.x; at[6] = lane_index() + 100 * warp_index(); at[7] = warp_count();""",
    ),
    kernel(
        "narrow",
        "const float* x, unsigned short* h, unsigned short* b",
        f"""{LANE}
    h[i] = from_float<f16>(x[i]).bits;
    b[i] = from_float<bf16>(x[i]).bits;""",
    ),
    kernel(
        "pairs",
        "const float* x, unsigned* h, unsigned* b",
        f"""{LANE}
    h[i] = f16_pair(x[2 * i], x[2 * i + 1]);
    b[i] = bf16_pair(x[2 * i], x[2 * i + 1]);""",
    ),
    kernel(
        "bytes",
        "const unsigned* q, unsigned* h",
        f"""{LANE}
    const HalfChunk halves = int8_to_f16(q[i]);
    h[2 * i] = halves.word[0]; h[2 * i + 1] = halves.word[1];""",
    ),
    kernel(
        "widen",
        "const f16* h, const bf16* b, float* x, float* y",
        f"""{LANE}
    x[i] = to_float(h[i]);
    y[i] = to_float(b[i]);""",
    ),
    kernel(
        "bits",
        "const unsigned* x, float* f, unsigned* y",
        f"""{LANE}
    f[i] = as_float(x[i]);
    y[i] = as_bits(f[i]);""",
    ),
    kernel(
        "shuffles",
        "const unsigned* x, const int* by, unsigned* y",
        f"""{LANE}
    y[6 * i] = shuffle_xor(x[i], by[0]);
    y[6 * i + 1] = as_bits(shuffle_xor(as_float(x[i]), by[1]));
    y[6 * i + 2] = shuffle(x[i], x[i] % 64);
    y[6 * i + 3] = as_bits(shuffle(as_float(x[i]), by[2]));
    y[6 * i + 4] = shuffle_up(x[i], by[3]);
    const unsigned long long wide = x[i] * 0x100000001ull;
    y[6 * i + 5] = unsigned((shuffle_up(wide, by[3]) + shuffle_xor(wide, by[0])) >> 32);""",
    ),
    kernel(
        "sums",
        "const float* x, float* y, float* z",
        f"""{LANE}
    y[i] = warp_sum(x[i]);
    z[i] = warp_max(x[i]);""",
    ),
    kernel(
        "dots",
        "const unsigned* a, const unsigned* b, int* y",
        f"""{LANE}
    y[i] = dot4(a[i], b[i], y[i]);""",
    ),
    kernel(
        "tiles_bf16",
        "const unsigned* a, const unsigned* b, float* d",
        """    const int l = threadIdx.x;
    mma_bf16(*(float(*)[4])(d + 4 * l), *(const unsigned(*)[4])(a + 4 * l), *(const unsigned(*)[2])(b + 2 * l));""",
    ),
    kernel(
        "tiles_f16",
        "const unsigned* a, const unsigned* b, float* d",
        """    const int l = threadIdx.x;
    mma_f16(*(float(*)[4])(d + 4 * l), *(const unsigned(*)[4])(a + 4 * l), *(const unsigned(*)[2])(b + 2 * l));""",
    ),
    kernel(
        "atomics",
        "unsigned* n, unsigned long long* m, unsigned* y",
        f"""{LANE}
    y[i] = atomic_add(n, 1u);
    atomic_add(m, 1ull << 33);
    atomic_max(m + 1, (unsigned long long)i << 20);""",
    ),
    kernel(
        "stages",
        "const Chunk* x, Chunk* y",
        """    GRAPHLLM_SHARED(shared);
    Chunk* stage = reinterpret_cast<Chunk*>(shared);
    const int n = blockDim.x, t = threadIdx.x;
    for (int i = 0; i < 2; ++i) {
        copy_async(stage + i * n + t, x + i * n + t, true);
        copies_commit();
    }
    for (int i = 0; i < 5; ++i) {
        copies_wait<1>();
        sync_block();
        y[i * n + t] = stage[i % 2 * n + (t ^ 5)];
        sync_block();
        copy_async(stage + i % 2 * n + t, x + (i + 2) * n + t, i < 2);
        copies_commit();
    }""",
    ),
    kernel(
        "loads",
        "const Chunk* x, unsigned* y",
        f"""{LANE}
    expect(x + i);
    const Chunk c = load_once(x + i);
    const HalfChunk h = load_once_half(x + i);
    y[i] = c.word[0] + c.word[1] * 3 + c.word[2] * 5 + c.word[3] * 7 + h.word[0] * 11 + h.word[1] * 13;
    y[i] += as_bits(load_fresh(reinterpret_cast<const float*>(x + i)));
    y[i] += unsigned(load_fresh(reinterpret_cast<const unsigned long long*>(x + i)) >> 32);""",
    ),
    kernel(
        "maths",
        "const float* x, float* y",
        f"""{LANE}
    float s, c;
    sincosf(x[i], &s, &c);
    y[4 * i] = s + 2 * c;
    y[4 * i + 1] = rsqrtf(fabsf(x[i]));
    y[4 * i + 2] = fmaf(x[i], x[i], expf(-fabsf(x[i])));
    y[4 * i + 3] = rintf(fmaxf(fminf(x[i], 3.0f), -3.0f));""",
    ),
)
ARCHS = ("sm_75", "sm_90")


def sim(work: Work, arch: str = "sm_90", seed: int = 1, **arrays: Array) -> dict[str, Array]:
    kernels = KERNELS if arch != "sm_75" else tuple(k for k in KERNELS if k.name != "tiles_bf16")
    return run(library(kernels, arch), [work], arrays, arch, seed=seed)


def rng() -> np.random.Generator:
    return np.random.default_rng()


def test_every_intrinsic_has_a_twin() -> None:
    """What machine.cuh offers, sim/machine.h offers, and one of the kernels here uses."""

    def names(path: Path) -> set[str]:
        return set(re.findall(r"\b(\w+)\([^;{}()]*(?:\([^()]*\)[^;{}()]*)*\) \{", path.read_text()))

    offered = names(CUDA / "machine.cuh") - {"for", "if"}
    assert len(offered) > 15
    assert offered <= names(CUDA / "sim" / "machine.h")
    told = {"fence", "let_consumers_start", "sync_warp"}  # by the tests of faults
    texts = [(CUDA / "prelude.cuh").read_text(), *(k.text for k in KERNELS)]
    assert {n for n in offered if not any(re.search(rf"\b{n}\b", text) for text in texts)} <= told


def test_indices() -> None:
    y = sim(Work("indices", ("y",), grid=(3, 2), block=64), y=np.zeros((2, 3, 64, 8), np.uint32))["y"]
    row, column, thread = np.indices((2, 3, 64))
    want = [thread, column, row, 3 + 0 * row, 2 + 0 * row, 64 + 0 * row, thread % 32 + thread // 32 * 100, 2 + 0 * row]
    np.testing.assert_array_equal(y, np.stack(want, -1))


def test_narrow_floats_are_rounded_as_they_are_by_others() -> None:
    bits = np.concatenate([rng().integers(0, 1 << 32, 1 << 14, np.uint32), np.arange(0x33000000, 0x33002000, 13)])
    edges = [0x477FEFFF, 0x477FF000, 0x477FE000, 0x38800000, 0x387FFFFF, 0x33000000, 0x33000001, 0x7F800000, 0, 1 << 31]
    bits = np.concatenate([bits, np.array(edges), np.array(edges) | 1 << 31]).astype(np.uint32)
    x = bits[: len(bits) // 32 * 32].view(np.float32)
    short = np.zeros(len(x), np.uint16)
    out = sim(Work("narrow", ("x", "h", "b"), grid=(len(x) // 32, 1)), x=x, h=short, b=short)
    with np.errstate(over="ignore", invalid="ignore"):
        h, b = x.astype(np.float16), x.astype(ml_dtypes.bfloat16)
    real = ~np.isnan(x)
    pair = np.zeros(len(x) // 2, np.uint32)
    pairs = sim(Work("pairs", ("x", "h", "b"), grid=(len(pair) // 32, 1)), x=x[: len(pair) // 32 * 64], h=pair, b=pair)
    for name in ("h", "b"):
        halves = pairs[name].view(np.uint16)[: len(pair) // 32 * 64]
        same = real[: len(halves)]
        np.testing.assert_array_equal(halves[same], out[name][: len(halves)][same])
    np.testing.assert_array_equal(out["h"][real], h.view(np.uint16)[real])
    np.testing.assert_array_equal(out["b"][real], b.view(np.uint16)[real])
    assert np.isnan(out["h"].view(np.float16)[~real]).all()
    assert np.isnan(out["b"].view(ml_dtypes.bfloat16)[~real].astype(np.float32)).all()


def test_every_byte_is_an_f16() -> None:
    q = np.arange(-128, 128, dtype=np.int8)
    got = sim(Work("bytes", ("q", "h"), grid=(2, 1)), q=q, h=np.zeros(128, np.uint32))["h"]
    np.testing.assert_array_equal(got.view(np.float16), q.astype(np.float16))


def test_every_narrow_float_is_widened() -> None:
    short = np.arange(1 << 16, dtype=np.uint16)
    wide = np.zeros(1 << 16, np.float32)
    work = Work("widen", ("h", "b", "x", "y"), grid=(64, 1), block=1024)
    out = sim(work, h=short, b=short, x=wide, y=wide)
    np.testing.assert_array_equal(out["x"], short.view(np.float16).astype(np.float32))
    np.testing.assert_array_equal(out["y"], short.view(ml_dtypes.bfloat16).astype(np.float32))


def test_bits() -> None:
    x = rng().integers(0, 1 << 32, 64, np.uint32)
    out = sim(Work("bits", ("x", "f", "y"), grid=(2, 1)), x=x, f=np.zeros(64, np.float32), y=np.zeros(64, np.uint32))
    np.testing.assert_array_equal(out["y"], x)
    np.testing.assert_array_equal(out["f"].view(np.uint32), x)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_shuffles(seed: int) -> None:
    x = rng().integers(0, 1 << 32, 128, np.uint32)
    by = rng().integers(1, 32, 4).astype(np.int32)
    work = Work("shuffles", ("x", "by", "y"), grid=(2, 1), block=64)
    y = sim(work, seed=seed, x=x, by=by, y=np.zeros((128, 6), np.uint32))["y"]
    lane = np.arange(32)
    up = np.where(lane < by[3], lane, lane - by[3])
    for warp, got in zip(x.reshape(-1, 32), y.reshape(-1, 32, 6), strict=True):
        wide = (warp.astype(np.uint64) << np.uint64(32)) + warp
        want = [
            *(warp[lane ^ by[0]], warp[lane ^ by[1]], warp[warp % 32], warp[np.full(32, by[2])], warp[up]),
            (wide[up] + wide[lane ^ by[0]]) >> np.uint64(32),
        ]
        np.testing.assert_array_equal(got, np.stack(want, -1).astype(np.uint32))


def test_sums_over_a_warp() -> None:
    x = rng().normal(size=(4, 32)).astype(np.float32)
    x[2, 7] = np.nan
    out = sim(Work("sums", ("x", "y", "z"), grid=(2, 1), block=64), x=x, y=x, z=x)
    tree = x.copy()
    for step in (16, 8, 4, 2, 1):
        tree = tree + tree[:, np.arange(32) ^ step]
    np.testing.assert_array_equal(out["y"], tree)
    np.testing.assert_array_equal(out["z"], np.repeat(x.max(1, keepdims=True), 32, 1))


def test_dots_of_four() -> None:
    a, b = rng().integers(-128, 128, (2, 64, 4)).astype(np.int8)
    y = rng().integers(-(1 << 31), 1 << 31, 64).astype(np.int32)
    got = sim(Work("dots", ("a", "b", "y"), grid=(2, 1)), a=a, b=b, y=y)["y"]
    want = (y + (a.astype(np.int64) * b).sum(1)).astype(np.uint64) & np.uint64(0xFFFFFFFF)
    np.testing.assert_array_equal(got.view(np.uint32), want.astype(np.uint32))


@pytest.mark.parametrize(("name", "arch"), [("f16", "sm_75"), ("f16", "sm_90"), ("bf16", "sm_90")])
def test_tiles(name: str, arch: str) -> None:
    """The fragments as the PTX manual lays them out, filled here the other way around."""
    kind = np.dtype(np.float16 if name == "f16" else ml_dtypes.bfloat16)
    a, b = rng().normal(size=(16, 16)).astype(kind), rng().normal(size=(16, 8)).astype(kind)
    d = rng().normal(size=(16, 8)).astype(np.float32)
    fa, fb, fd = np.zeros((32, 8), kind), np.zeros((32, 4), kind), np.zeros((32, 4), np.float32)
    for r in range(16):
        for c in range(16):  # row r, column c of a: register by halves of both, lane by r % 8 and pairs of c
            fa[r % 8 * 4 + c % 8 // 2, (r // 8 + 2 * (c // 8)) * 2 + c % 2] = a[r, c]
    for k in range(16):
        for c in range(8):
            fb[c * 4 + k % 8 // 2, k // 8 * 2 + k % 2] = b[k, c]
            fd[k % 8 * 4 + c // 2, k // 8 * 2 + c % 2] = d[k, c]
    arrays = {"a": fa.view(np.uint32), "b": fb.view(np.uint32), "d": fd}
    got = sim(Work(f"tiles_{name}", ("a", "b", "d")), arch, **arrays)["d"]
    want = d + a.astype(np.float64) @ b.astype(np.float64)
    for r in range(16):
        for c in range(8):
            found = got[r % 8 * 4 + c // 2, r // 8 * 2 + c % 2]
            assert abs(found - want[r, c]) <= 1e-6 * max(1, abs(want[r, c]))


@pytest.mark.parametrize("together", [False, True])
def test_atomics(together: bool) -> None:
    arrays = {"n": np.zeros(1, np.uint32), "m": np.zeros(2, np.uint64), "y": np.zeros(256, np.uint32)}
    work = Work("atomics", ("n", "m", "y"), grid=(4, 1), block=64)
    out = run(library(KERNELS), [work], arrays, seed=3, together=together)
    assert out["n"][0] == 256
    np.testing.assert_array_equal(np.sort(out["y"]), np.arange(256))
    assert (out["y"] != np.arange(256)).any()
    np.testing.assert_array_equal(out["m"], [256 << 33, 255 << 20])


@pytest.mark.parametrize("arch", ARCHS)
def test_copies_behind_a_threads_back(arch: str) -> None:
    x = rng().integers(0, 1 << 32, (4, 64, 4), np.uint32)
    work = Work("stages", ("x", "y"), block=64, shared=2 * 64 * 16)
    for seed in SEEDS[:3]:
        y = sim(work, arch, seed, x=x, y=np.zeros((5, 64, 4), np.uint32))["y"]
        np.testing.assert_array_equal(y[:4], x[:, np.arange(64) ^ 5])
        np.testing.assert_array_equal(y[4], 0)


def test_loads() -> None:
    x = rng().integers(0, 1 << 32, (64, 4), np.uint32)
    y = sim(Work("loads", ("x", "y"), grid=(2, 1)), x=x, y=np.zeros(64, np.uint32))["y"]
    np.testing.assert_array_equal(y, x @ np.array([13, 17, 5, 7], np.uint32))


def test_maths() -> None:
    x = rng().normal(size=64).astype(np.float32) * 3
    y = sim(Work("maths", ("x", "y"), grid=(2, 1)), x=x, y=np.zeros((64, 4), np.float32))["y"]
    wide = x.astype(np.float64)
    want = [np.sin(wide) + 2 * np.cos(wide), np.abs(wide) ** -0.5, wide**2 + np.exp(-np.abs(wide))]
    np.testing.assert_allclose(y[:, :3], np.stack(want, -1), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y[:, 3], np.rint(np.clip(x, -3, 3)))
