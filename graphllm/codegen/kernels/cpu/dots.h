// Dot products of a group of int8 weights with activations that were cut into digits. The machine says which digits it
// multiplies best: Bytes are digits of base 128 as int8, Words are digits of base 2048 as int16. Sums are exact: a group
// has at most 65,536 elements.
//
//   Digit, BITS             how a digit is stored, what it counts in
//   Sum, Total              partial sums of integers, the same as floats
//   OFFSET                  sums start at -128 times the sum of the digits
//   add<T, D>(w, x, row, digit, n, sums)   sums[t*D + d] += n elements of w . digit d of row t
#pragma once

#include "weights.h"

namespace graphllm {

typedef float NarrowF __attribute__((vector_size(32)));
typedef float QuarterF __attribute__((vector_size(16)));

inline float sum(NarrowF x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
inline float sum(QuarterF x) { return (x[0] + x[2]) + (x[1] + x[3]); }

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512VNNI__) && defined(__AVX512BW__)

// The instruction takes weights for unsigned: they are read as w + 128.
struct Bytes {
    typedef int8_t Digit;
    typedef __m512i Sum;
    typedef VF Total;
    static constexpr int BITS = 7;
    static constexpr bool OFFSET = true;
    static Sum none() { return _mm512_setzero_si512(); }

    template <int T, int D>
    static void add(const int8_t* w, const int8_t* x, long row, long digit, int n, Sum (&sums)[T * D]) {
        const __m512i flip = _mm512_set1_epi8(-128);
        int i = 0;
        for (; i + 64 <= n; i += 64) {
            __builtin_prefetch(w + i + AHEAD);
            const __m512i a = _mm512_xor_si512(_mm512_loadu_si512(w + i), flip);
            for (int j = 0; j < T * D; ++j)
                sums[j] = _mm512_dpbusd_epi32(sums[j], a, _mm512_loadu_si512(x + j / D * row + j % D * digit + i));
        }
        if (i < n) {
            const __mmask64 some = ~0ull >> (64 - (n - i));
            const __m512i a = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + i), flip);
            for (int j = 0; j < T * D; ++j) {
                const int8_t* at = x + j / D * row + j % D * digit + i;
                sums[j] = _mm512_dpbusd_epi32(sums[j], a, _mm512_maskz_loadu_epi8(some, at));
            }
        }
    }
    static Sum from(int32_t start) { return _mm512_zextsi128_si512(_mm_cvtsi32_si128(start)); }
    static VF floats(Sum s) { return VF{{NF(_mm512_cvtepi32_ps(s))}}; }
};
typedef Bytes Fine;

#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)

// What bytes and words have in common: ``Kind::step`` takes WIDTH elements.
template <class Kind, class D_, int WIDTH>
struct Eight {
    typedef D_ Digit;
    typedef __m256i Sum;
    typedef NarrowF Total;
    static constexpr bool OFFSET = false;
    static Sum none() { return _mm256_setzero_si256(); }

    template <int T, int D>
    static void add(const int8_t* w, const Digit* x, long row, long digit, int n, Sum (&sums)[T * D]) {
        int i = 0;
        for (; i + 64 <= n; i += 64) {
            __builtin_prefetch(w + i + AHEAD);
            const auto step = [&](int m) {
                const __m256i a = Kind::weights(w + m);
                for (int j = 0; j < T * D; ++j)
                    sums[j] = Kind::step(sums[j], a, read<__m256i>(x + j / D * row + j % D * digit + m));
            };
            if constexpr (T * D <= 2) {
#pragma GCC unroll 4  // one row: the counting would cost as much as the products
                for (int m = i; m < i + 64; m += WIDTH) step(m);
            } else {
#pragma GCC unroll 1  // or compilers multiply first, and have no registers left to add in
                for (int m = i; m < i + 64; m += WIDTH) step(m);
            }
        }
        for (; i < n; i += WIDTH) {
            int8_t some[WIDTH] = {};
            Digit others[WIDTH] = {};
            const int left = n - i < WIDTH ? n - i : WIDTH;
            std::memcpy(some, w + i, left);
            const __m256i a = Kind::weights(some);
            for (int j = 0; j < T * D; ++j) {
                std::memcpy(others, x + j / D * row + j % D * digit + i, left * sizeof(Digit));
                sums[j] = Kind::step(sums[j], a, read<__m256i>(others));
            }
        }
    }
    static Sum from(int32_t start) { return _mm256_setr_epi32(start, 0, 0, 0, 0, 0, 0, 0); }
    static NarrowF floats(Sum s) { return NarrowF(_mm256_cvtepi32_ps(s)); }
};

// The instructions take one side for unsigned: the weight's sign goes to the activation.
struct Bytes : Eight<Bytes, int8_t, 32> {
    static constexpr int BITS = 7;
    static __m256i weights(const int8_t* w) { return read<__m256i>(w); }
    static Sum step(Sum sum, __m256i w, __m256i x) {
        const __m256i a = _mm256_abs_epi8(w), b = _mm256_sign_epi8(x, w);
#if defined(__AVXVNNI__)
        return _mm256_dpbusd_avx_epi32(sum, a, b);
#else
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
#endif
    }
};

struct Words : Eight<Words, int16_t, 16> {
    static constexpr int BITS = 11;
    static __m256i weights(const int8_t* w) { return _mm256_cvtepi8_epi16(read<__m128i>(w)); }
    static Sum step(Sum sum, __m256i w, __m256i x) {
#if defined(__AVXVNNI__)
        return _mm256_dpwssd_avx_epi32(sum, w, x);
#else
        return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
#endif
    }
};
typedef Words Fine;

#elif !defined(GRAPHLLM_PORTABLE) && defined(__ARM_FEATURE_DOTPROD)

struct Bytes {
    typedef int8_t Digit;
    typedef int32x4_t Sum;
    typedef QuarterF Total;
    static constexpr int BITS = 7;
    static constexpr bool OFFSET = false;
    static Sum none() { return vdupq_n_s32(0); }

    template <int T, int D>
    static void add(const int8_t* w, const int8_t* x, long row, long digit, int n, Sum (&sums)[T * D]) {
        int i = 0;
        for (; i + 16 <= n; i += 16) {
            __builtin_prefetch(w + i + AHEAD);
            const int8x16_t a = vld1q_s8(w + i);
            for (int j = 0; j < T * D; ++j)
                sums[j] = vdotq_s32(sums[j], a, vld1q_s8(x + j / D * row + j % D * digit + i));
        }
        if (i < n) {
            const int8x16_t a = part(w + i, n - i);
            for (int j = 0; j < T * D; ++j)
                sums[j] = vdotq_s32(sums[j], a, part(x + j / D * row + j % D * digit + i, n - i));
        }
    }
    static int8x16_t part(const int8_t* x, int n) {
        int8_t room[16] = {};
        std::memcpy(room, x, n);
        return vld1q_s8(room);
    }
    static Sum from(int32_t start) { return vsetq_lane_s32(start, none(), 0); }
    static QuarterF floats(Sum s) { return bits_as<QuarterF>(vcvtq_f32_s32(s)); }
};
typedef Bytes Fine;

#else

#define GRAPHLLM_PLAIN_DOTS 1

// A loop that compilers know: widened to 16 bits, products are added in pairs by one instruction where there is one.
struct Words {
    typedef int16_t Digit;
    static constexpr int BITS = 11;
    static constexpr bool OFFSET = false;

    // sums[t*D + d] = n elements of w . digit d of row t; N is n where that is known.
    template <int N, int T, int D>
    static void dots(const int8_t* w, const int16_t* x, long row, long digit, int n, int32_t (&sums)[T * D]) {
        int32_t s[T * D] = {};
        for (int i = 0; i < (N ? N : n); ++i)
            for (int j = 0; j < T * D; ++j) s[j] += int32_t(w[i]) * int32_t(x[j / D * row + j % D * digit + i]);
        for (int j = 0; j < T * D; ++j) sums[j] = s[j];
    }
};
typedef Words Bytes;
typedef Words Fine;

#endif

}  // namespace graphllm
