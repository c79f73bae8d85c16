// Sixteen f32 lanes. Every sum is kept in these lanes and added up in one fixed order, so that a result follows from
// the numbers alone and not from the width of the machine's registers: compilers cut the vectors to fit.
#pragma once

#include <cmath>

#include "types.h"

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
#include <immintrin.h>
#endif
#if !defined(GRAPHLLM_PORTABLE) && defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace graphllm {

constexpr int LANES = 16;
typedef float VF __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
typedef uint32_t VU __attribute__((vector_size(64)));
typedef uint16_t VU16 __attribute__((vector_size(32)));
typedef int16_t VI16 __attribute__((vector_size(32)));
typedef int8_t VI8 __attribute__((vector_size(16)));

inline VF all(float x) { return VF{} + x; }

template <class V>
inline V read(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline VF load(const float* x) { return read<VF>(x); }

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
inline VF both(__m256 low, __m256 high) {
    VF v;
    std::memcpy(&v, &low, sizeof low);
    std::memcpy(reinterpret_cast<char*>(&v) + sizeof low, &high, sizeof high);
    return v;
}
#endif

// Conversions are single instructions that compilers do not all find by themselves.
inline VF load(const bf16* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    return bits_as<VF>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read<__m256i>(x)), 16));
#else
    return bits_as<VF>(__builtin_convertvector(read<VU16>(x), VU) << 16);
#endif
}

inline VF load(const f16* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    return bits_as<VF>(_mm512_cvtph_ps(read<__m256i>(x)));
#elif !defined(GRAPHLLM_PORTABLE) && defined(__F16C__)
    return both(_mm256_cvtph_ps(read<__m128i>(x)), _mm256_cvtph_ps(read<__m128i>(x + 8)));
#elif defined(__ARM_FP16_FORMAT_IEEE)
    typedef __fp16 VH __attribute__((vector_size(32)));
    return __builtin_convertvector(read<VH>(x), VF);
#else
    const VU bits = __builtin_convertvector(read<VU16>(x), VU), magnitude = (bits & 0x7fff) << 13;
    const VU value = bits_as<VU>(bits_as<VF>(magnitude) * bits_as<float>(uint32_t(127 + 112) << 23));
    const VU special = bits_as<VU>(magnitude >= 0x0f800000);
    return bits_as<VF>((value & ~special) | ((magnitude | 0x7f800000) & special) | (bits & 0x8000) << 16);
#endif
}

inline VF load(const int8_t* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512F__)
    return bits_as<VF>(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(read<__m128i>(x))));
#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)
    const __m128i v = read<__m128i>(x);
    return both(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(v, v))));
#else  // by way of 16 bits, or compilers go through it one by one
    return __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(read<VI8>(x), VI16), VI), VF);
#endif
}

// The first n lanes; the others are 0, and nothing behind them is touched.
template <class S>
inline VF load_part(const S* x, int n) {
    S room[LANES] = {};
    std::memcpy(room, x, n * sizeof(S));
    return load(room);
}

inline void store(float* to, VF v) { std::memcpy(to, &v, sizeof v); }
inline void store_part(float* to, VF v, int n) { std::memcpy(to, &v, n * sizeof(float)); }

inline float sum(VF v) {
    typedef float V8 __attribute__((vector_size(32)));
    typedef float V4 __attribute__((vector_size(16)));
    V8 halves[2];
    std::memcpy(halves, &v, sizeof v);
    const V8 eight = halves[0] + halves[1];
    V4 quarters[2];
    std::memcpy(quarters, &eight, sizeof eight);
    const V4 four = quarters[0] + quarters[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

inline VF larger(VF a, VF b) { return a > b ? a : b; }

// e^x in f32, within 2 units of the last place: 2^n times a polynomial of degree 6 on [-ln2/2, ln2/2]. Below -87.3 it
// gives 0, above 88.7 infinity; NaN stays NaN.
inline VF exp(VF x) {
    const VF n_shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const VF n = n_shifted - 12582912.0f;
    const VF r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    VF p = all(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const VI power = (bits_as<VI>(n_shifted) - 0x4b400000 + 127) << 23;
    VF y = p * bits_as<VF>(power);
    y = x < -87.3f ? all(0) : y;
    y = x > 88.0f ? all(INFINITY) : y;
    return x != x ? x : y;
}

}  // namespace graphllm
