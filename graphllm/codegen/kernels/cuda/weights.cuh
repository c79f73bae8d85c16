// How a matrix [N,K] is stored, and what a product needs of it. Every kind has
//
//   PER               elements of a chunk, the 16 bytes that a lane loads at once
//   Held              a chunk in registers, with all that it takes to use it
//   chunks()          of a row
//   load(row, c)      chunk c of a row; what lies behind the row's end is 0
//   dot(held, x, ld)  times PER activations as ``Planes`` lay them out
//   at(row, k)        one element as f32
//
// WHOLE: every row is a whole number of chunks; otherwise rows are read element by element.
#pragma once

#include "prelude.cuh"

namespace graphllm {

__device__ constexpr int up(int n, int to) { return (n + to - 1) / to * to; }

// Four floats, read at once.
struct alignas(16) Four {
    float f[4];
};

// Activations in shared memory as chunks of PER elements meet them: the first four of every chunk one after another, then
// the second four, …, so that lanes with neighbouring chunks read neighbouring words.
template <int PER>
struct Planes {
    static constexpr int COUNT = PER / 4;
    __device__ static int floats(int k) { return up(k, PER); }
    // Where element i lies, ``plane`` = chunks * 4 floats.
    __device__ static int place(int i, int plane) { return i % PER / 4 * plane + i / PER * 4 + i % 4; }
};

// 16 bytes as PER numbers.
__device__ inline void widen_chunk(const Chunk& c, float (&v)[4], float) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = as_float(c.word[i]);
}
__device__ inline void widen_chunk(const Chunk& c, float (&v)[8], bf16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = as_float(c.word[i] << 16);
        v[2 * i + 1] = as_float(c.word[i] & 0xffff0000u);
    }
}
__device__ inline void widen_chunk(const Chunk& c, float (&v)[8], f16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = f16_to_float(static_cast<unsigned short>(c.word[i] & 0xffffu));
        v[2 * i + 1] = f16_to_float(static_cast<unsigned short>(c.word[i] >> 16));
    }
}
// A byte b in the last place of 2^23 is 2^23 + b: cheaper than a conversion.
__device__ inline void widen_chunk(const Chunk& c, float (&v)[16], int8_t) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const unsigned word = c.word[i] ^ 0x80808080u;
#pragma unroll
        for (int j = 0; j < 4; ++j) v[4 * i + j] = as_float(0x4b000000u | ((word >> (8 * j)) & 0xffu)) - 8388736.0f;
    }
}

// The dot product of PER numbers with their activations; x is the chunk's place in the first plane.
template <int PER>
__device__ inline float dot_planes(const float (&v)[PER], const float* x, int plane) {
    float sum = 0;
#pragma unroll
    for (int p = 0; p < PER / 4; ++p) {
        const Four a = *reinterpret_cast<const Four*>(x + p * plane);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum = fmaf(v[4 * p + i], a.f[i], sum);
    }
    return sum;
}

template <bool WHOLE, class S>
__device__ inline Chunk load_chunk(const S* w, long long row, int k, int c) {
    constexpr int PER = 16 / sizeof(S);
    if (WHOLE) return load_once(w + row * k + c * PER);
    union {
        Chunk chunk;
        S element[PER];
    } held = {};
    for (int i = 0; i < PER; ++i)
        if (c * PER + i < k) held.element[i] = w[row * k + c * PER + i];
    return held.chunk;
}

// Floats.
template <class S, bool WHOLE>
struct Dense {
    static constexpr int PER = 16 / sizeof(S);
    using Held = Chunk;
    const S* w;
    int k;

    __device__ int chunks() const { return (k + PER - 1) / PER; }
    __device__ Held load(long long row, int c) const { return load_chunk<WHOLE>(w, row, k, c); }
    __device__ float dot(const Held& held, const float* x, int plane) const {
        float v[PER];
        widen_chunk(held, v, S{});
        return dot_planes(v, x, plane);
    }
    __device__ float at(long long row, int i) const { return to_float(w[row * k + i]); }
};

// int8 in groups of G along each row, or, FLAT, over the whole matrix. S is the scales' type.
template <class S, int G, bool FLAT, bool WHOLE>
struct Groups {
    static constexpr int PER = 16;
    static constexpr bool EVEN = G % PER == 0 && (WHOLE || !FLAT);  // a chunk has one scale
    struct Held {
        Chunk chunk;
        float scale;
        long long row;
        int first;
    };
    const int8_t* q;
    const S* scale;
    int k;

    __device__ int chunks() const { return (k + PER - 1) / PER; }
    __device__ float scale_at(long long row, int i) const {
        return to_float(scale[FLAT ? (row * k + i) / G : row * ((k + G - 1) / G) + i / G]);
    }
    __device__ Held load(long long row, int c) const {
        return {load_chunk<WHOLE>(q, row, k, c), EVEN ? scale_at(row, c * PER) : 0.0f, row, c * PER};
    }
    __device__ float dot(const Held& held, const float* x, int plane) const {
        float v[PER];
        widen_chunk(held.chunk, v, int8_t{});
        if (EVEN) return held.scale * dot_planes(v, x, plane);
        for (int i = 0; i < PER; ++i)
            if (held.first + i < k) v[i] *= scale_at(held.row, held.first + i);
        return dot_planes(v, x, plane);
    }
    __device__ float at(long long row, int i) const { return float(q[row * k + i]) * scale_at(row, i); }
};

}  // namespace graphllm
