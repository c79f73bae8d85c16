// Everything that the kernels ask of the machine: the only place with PTX, and with its twin for a CPU (sim/machine.h).
//
// No header of CUDA is included: NVRTC has none at hand, and compiles several times as fast without.
#pragma once

#ifdef GRAPHLLM_SIM
#include "sim/machine.h"
#else
#include "machine.cuh"
#endif

namespace graphllm {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

__device__ inline int lane_index() { return threadIdx.x % WARP; }
__device__ inline int warp_index() { return threadIdx.x / WARP; }
__device__ inline int warp_count() { return blockDim.x / WARP; }

// Floats of 16 bits, as bits.
struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(signed char x) { return float(x); }
__device__ inline float to_float(bf16 x) { return as_float(unsigned(x.bits) << 16); }
__device__ inline float to_float(f16 x) { return f16_to_float(x.bits); }

// To nearest even.
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
    return x;
}
template <>
__device__ inline f16 from_float<f16>(float x) {
    return {float_to_f16(x)};
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
    const unsigned bits = as_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
    return {static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

// Two halves of a word: the low one first in memory.
__device__ inline unsigned pair_of(bf16 low, bf16 high) { return unsigned(low.bits) | unsigned(high.bits) << 16; }
__device__ inline unsigned pair_of(f16 low, f16 high) { return unsigned(low.bits) | unsigned(high.bits) << 16; }

// The sum over a warp, in every lane; always in the same order.
__device__ inline float warp_sum(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) x += shuffle_xor(x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        const float other = shuffle_xor(x, step);
        x = x > other || x != x ? x : other;  // NaN stays
    }
    return x;
}

__device__ inline unsigned warp_max(unsigned x) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        const unsigned other = shuffle_xor(x, step);
        x = x > other ? x : other;
    }
    return x;
}

// A row number within a table of n rows, whatever a damaged plan asks for.
__device__ inline int clip(int row, int n) { return row < 0 ? 0 : row >= n ? n - 1 : row; }

}  // namespace graphllm
