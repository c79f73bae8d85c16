// Tensor cores: how stored weights become the a of d [16,8] += a [16,16] b [16,8], and f32 activations its b.
//
// Weights are the 16 rows, activations the 8. A sum over k has no order, so lane l with g = l / 4 and c = l % 4 takes PER
// neighbours of k at once, c * PER … of every 4 * PER: 16 bytes as they lie in memory, and no data ever changes lanes.
//
// f32 is said in 16-bit terms that add up to it: two of bf16 have 17 bits, two of f16 22, if the row is first multiplied
// with a power of two that keeps them in range. Products of terms are exact, and their sums are in f32.
#pragma once

#include "few.cuh"

namespace graphllm {

#if GRAPHLLM_ARCH < 800
// What these machines lack: every lane gathers its rows and columns. A call, not inlined: code that has it dozens of
// times takes seconds to compile, and is no faster.
static __device__ __noinline__ Four gathered_bf16(Four d, Chunk a, HalfChunk b) {
    const int g = lane_index() / 4, c = lane_index() % 4;
    const auto low = [](unsigned word) { return as_float(word << 16); };
    const auto high = [](unsigned word) { return as_float(word & 0xffff0000u); };
#pragma unroll 1
    for (int from = 0; from < 4; ++from)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const unsigned upper = shuffle(a.word[2 * half], 4 * g + from);
            const unsigned lower = shuffle(a.word[2 * half + 1], 4 * g + from);
#pragma unroll
            for (int column = 0; column < 2; ++column) {
                const unsigned x = shuffle(b.word[half], 4 * (2 * c + column) + from);
                d.f[column] = fmaf(high(upper), high(x), fmaf(low(upper), low(x), d.f[column]));
                d.f[2 + column] = fmaf(high(lower), high(x), fmaf(low(lower), low(x), d.f[2 + column]));
            }
        }
    return d;
}
__device__ inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    const Four sum = gathered_bf16({{d[0], d[1], d[2], d[3]}}, {{a[0], a[1], a[2], a[3]}}, {{b[0], b[1]}});
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] = sum.f[i];
}
#endif

template <class E>
__device__ inline void multiply(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);
template <>
__device__ inline void multiply<bf16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_bf16(d, a, b);
}
template <>
__device__ inline void multiply<f16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    mma_f16(d, a, b);
}

// Words j and j + 1 of rows g and g + 8 of weights with those of a row of activations: 16 products each.
template <class E>
__device__ inline void multiply_words(float (&d)[4], const unsigned (&w)[2][4], const Chunk& x, int j) {
    const unsigned a[4] = {w[0][j], w[1][j], w[0][j + 1], w[1][j + 1]}, b[2] = {x.word[j], x.word[j + 1]};
    multiply<E>(d, a, b);
}

template <bool FIRST, class A>
__device__ inline A& choose(A& a, A& b) {
    return FIRST ? a : b;
}

// Two 16-bit floats in a word, and back.
template <class E>
__device__ inline unsigned pair_from(float low, float high);
template <>
__device__ inline unsigned pair_from<f16>(float low, float high) {
    return f16_pair(low, high);
}
template <>
__device__ inline unsigned pair_from<bf16>(float low, float high) {
    return bf16_pair(low, high);
}
template <class E>
__device__ inline float low_of(unsigned word) {
    return to_float(E{static_cast<unsigned short>(word & 0xffffu)});
}
template <class E>
__device__ inline float high_of(unsigned word) {
    return to_float(E{static_cast<unsigned short>(word >> 16)});
}

// Eight floats as so many terms; what is left of them stays in ``v``.
template <class E, int TERMS>
__device__ inline void split(float (&v)[8], Chunk (&terms)[TERMS]) {
#pragma unroll
    for (int s = 0; s < TERMS; ++s)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const unsigned word = pair_from<E>(v[2 * i], v[2 * i + 1]);
            terms[s].word[i] = word;
            v[2 * i] -= low_of<E>(word);
            v[2 * i + 1] -= high_of<E>(word);
        }
}

// Eight elements of a row from i on; zeros behind its end. ALIGNED: they are eight floats on a boundary of 16 bytes.
template <bool ALIGNED, class S>
__device__ inline void eight(const S* row, int i, int end, float (&v)[8]) {
    if constexpr (ALIGNED) {
        const Four a = *reinterpret_cast<const Four*>(row + i), b = *reinterpret_cast<const Four*>(row + i + 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            v[e] = a.f[e];
            v[4 + e] = b.f[e];
        }
    } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = i + e < end ? to_float(row[i + e]) : 0.0f;
    }
}

// Stored weights as tensor cores take them.
//
//   Element    of a fragment
//   PER        elements of a row that a lane loads at once
//   GROUPED    sums over a load's 4 * PER elements have a scale of their own
//   words()    of eight of them, from 8h on
//   PANEL      elements in 64 bytes
template <class Weights>
struct Operand;

template <class S, bool WHOLE>
struct Operand<Dense<S, WHOLE>> {
    using Element = S;
    static constexpr int PER = 8, PANEL = 32;
    static constexpr bool GROUPED = false;
    using Held = Chunk;
    __device__ static Held load(const Dense<S, WHOLE>& w, long long row, int c) { return w.load(row, c); }
    __device__ static float scale(const Held&) { return 1.0f; }
    __device__ static void words(const Held& held, int, unsigned (&word)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) word[i] = held.word[i];
    }
    __device__ static const unsigned char* bytes(const Dense<S, WHOLE>& w, long long row) {
        return reinterpret_cast<const unsigned char*>(w.w + row * w.k);
    }
    __device__ static void panel_words(const unsigned char* row, int c, int h, unsigned (&word)[4]) {
        words(*reinterpret_cast<const Chunk*>(row + c * 16), h, word);
    }
};

// Eight int8 as words of f16, all exact.
__device__ inline void halves_of(unsigned first, unsigned second, unsigned (&word)[4]) {
    const HalfChunk a = int8_to_f16(first), b = int8_to_f16(second);
    word[0] = a.word[0];
    word[1] = a.word[1];
    word[2] = b.word[0];
    word[3] = b.word[1];
}

// Groups are multiples of 32, each within a row.
template <class S, int G, bool FLAT, bool WHOLE>
struct Operand<Groups<S, G, FLAT, WHOLE>> {
    using Weights = Groups<S, G, FLAT, WHOLE>;
    using Element = f16;
    static constexpr int PER = G % 64 == 0 ? 16 : 8, PANEL = 64;
    static constexpr bool GROUPED = true;
    struct Held {
        unsigned word[PER / 4];
        float factor;
    };
    __device__ static Held load(const Weights& w, long long row, int c) {
        Held held = {};
        held.factor = w.scale_at(row, c * PER);
        if (WHOLE && PER == 16) {
            const Chunk chunk = load_once(w.q + row * w.k + c * PER);
#pragma unroll
            for (int i = 0; i < PER / 4; ++i) held.word[i] = chunk.word[i];
        } else if (WHOLE) {
            const HalfChunk chunk = load_once_half(w.q + row * w.k + c * PER);
            held.word[0] = chunk.word[0];
            held.word[1] = chunk.word[1];
        } else {
            for (int i = 0; i < PER; ++i)
                if (c * PER + i < w.k)
                    held.word[i / 4] |= unsigned(static_cast<unsigned char>(w.q[row * w.k + c * PER + i])) << (8 * (i % 4));
        }
        return held;
    }
    __device__ static float scale(const Held& held) { return held.factor; }
    __device__ static void words(const Held& held, int h, unsigned (&word)[4]) {
        halves_of(held.word[2 * h], held.word[2 * h + 1], word);
    }
    __device__ static const unsigned char* bytes(const Weights& w, long long row) {
        return reinterpret_cast<const unsigned char*>(w.q + row * w.k);
    }
    __device__ static void panel_words(const unsigned char* row, int c, int h, unsigned (&word)[4]) {
        const HalfChunk half = *reinterpret_cast<const HalfChunk*>(row + (PER == 16 ? c * 16 + h * 8 : h * 32 + c * 8));
        halves_of(half.word[0], half.word[1], word);
    }
};

// Where element i of a row of activations lies among halves, so that a lane's PER are there in loads of eight.
template <int PER>
__device__ inline int place_of(int i) {
    return i / (4 * PER) * (4 * PER) + i % PER / 8 * 32 + i / PER % 4 * 8 + i % 8;
}

// The largest magnitude so far, as bits: their order is that of magnitudes, and NaN is above them all.
__device__ inline unsigned larger(unsigned most, float x) {
    const unsigned size = as_bits(x) & 0x7fffffffu;
    return most > size ? most : size;
}

// A power of two that brings numbers up to ``most`` below 2^15, for terms in f16.
__device__ inline float headroom(float most) {
    const int exponent = int(as_bits(most) >> 23 & 255);
    if (exponent == 255) return 1.0f;  // no number, and none will come of it
    const int wanted = 268 - exponent;
    return as_float(unsigned(wanted < 253 ? wanted : 253) << 23);
}

// Elements that terms of their type can say only within a range.
__device__ constexpr bool ranged(bf16) { return false; }
__device__ constexpr bool ranged(f16) { return true; }

// What a row is multiplied with as it is staged, and what its sums are still to be multiplied with.
struct Factors {
    float times, back;
};
template <class E, class Lead>
__device__ inline Factors factors_of(const Lead& lead, float squares, unsigned most, int k) {
    const float r = Lead::NORM ? 1.0f / sqrtf(squares / float(k) + lead.eps) : 1.0f;
    if (!ranged(E{})) return {r, 1.0f};
    const float up = headroom(as_float(most) * r);
    return {r * up, 1.0f / up};
}

}  // namespace graphllm
