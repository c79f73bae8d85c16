// Dot products of a group of int8 weights with activations that were cut into digits. The machine says which digits it
// multiplies best: Bytes are digits of base 128 as int8, Words are digits of base 2048 as int16. Sums are exact: a group
// has at most 65,536 elements.
//
//   Digit, BITS             how a digit is stored, what it counts in
//   Total                   partial sums as floats
//   OFFSET                  sums of a stretch begin with start(total of the activations in it)
//   dots<N, T, D>(w, x, rows, starts, n, sums)   sums[t] = n elements of w . row t, in units of its last digit; N is n where
//                           that is known to the compiler, else 0
//
// Without instructions for it, dots gives integers, digit by digit: GRAPHLLM_PLAIN_DOTS says so.
#pragma once

#include "weights.h"

namespace graphllm {

typedef float NarrowF __attribute__((vector_size(32)));
typedef float QuarterF __attribute__((vector_size(16)));

constexpr int STRETCH = 64;  // elements whose sums have a start in common

// How far apart staged rows and their digits lie, in digits, and what rows begin with, in int32s.
struct Staged {
    long row, digit, start;
};

// Sums of each digit as one.
template <int D, int BITS, class Total, class Sum, class Floats>
inline Total joined(const Sum* digits, Floats floats) {
    Total sum = floats(digits[0]);
    for (int d = 1; d < D; ++d) sum = sum * float(1 << BITS) + floats(digits[d]);
    return sum;
}

inline float sum(NarrowF x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }
inline float sum(QuarterF x) { return (x[0] + x[2]) + (x[1] + x[3]); }

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512VNNI__) && defined(__AVX512BW__)

// The instruction takes weights for unsigned: they are read as w + 128. A lane adds four products of a stretch, so that its
// sum over all digits fits 32 bits, and so do its share of what the 128 has added and both together.
struct Bytes {
    typedef int8_t Digit;
    typedef VF Total;
    static constexpr int BITS = 7;
    static constexpr bool OFFSET = true;
    static int32_t start(int32_t total) { return -128 / LANES * total; }

    template <int N, int T, int D>
    GRAPHLLM_INLINE static void dots(const int8_t* w, const int8_t* x, const Staged& rows, const int32_t* starts, int n,
                                     VF (&sums)[T]) {
        stretch<T, D>(w, x, rows, starts, N && N < STRETCH ? N : n < STRETCH ? n : STRETCH, sums);
        VF more[T];
        for (int i = STRETCH; i < (N ? N : n); i += STRETCH) {
            stretch<T, D>(w + i, x + i, rows, ++starts, n - i < STRETCH ? n - i : STRETCH, more);
            for (int t = 0; t < T; ++t) sums[t] += more[t];
        }
    }

  private:
    template <int T, int D>
    GRAPHLLM_INLINE static void stretch(const int8_t* w, const int8_t* x, const Staged& rows, const int32_t* starts, int n,
                                        VF (&sums)[T]) {
        if (D > 1) ahead(w, LATER);  // one digit is done so soon that the machine's own prefetcher keeps pace
        const auto load = [n](const int8_t* at) {
            return n < STRETCH ? _mm512_maskz_loadu_epi8(~0ull >> (STRETCH - n), at) : _mm512_loadu_si512(at);
        };
        const __m512i a = _mm512_xor_si512(load(w), _mm512_set1_epi8(-128));
        for (int t = 0; t < T; ++t) {
            __m512i sum = _mm512_setzero_si512();
            for (int d = 0; d < D; ++d) {
                if (d > 0) sum = _mm512_slli_epi32(sum, BITS);
                sum = _mm512_dpbusd_epi32(sum, a, load(x + t * rows.row + d * rows.digit));
            }
            sums[t] = to<VF>(VI{{NI(sum)}} + starts[t * rows.start]);
        }
    }
};
typedef Bytes Fine;

#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)

// What bytes and words have in common: ``Kind::step`` takes WIDTH elements.
template <class Kind, class D_, int WIDTH>
struct Eight {
    typedef D_ Digit;
    typedef NarrowF Total;
    static constexpr bool OFFSET = false;

    template <int N, int T, int D>
    GRAPHLLM_INLINE static void dots(const int8_t* w, const Digit* x, const Staged& rows, const int32_t*, int n,
                                     NarrowF (&sums)[T]) {
        __m256i digits[T * D] = {};
        const auto at = [&](int j) { return x + j / D * rows.row + j % D * rows.digit; };
        int i = 0;
        for (; i + 64 <= n; i += 64) {
            ahead(w + i, LATER);
            const auto step = [&](int m) {
                const __m256i a = Kind::weights(w + m);
                for (int j = 0; j < T * D; ++j) digits[j] = Kind::step(digits[j], a, read<__m256i>(at(j) + m));
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
                std::memcpy(others, at(j) + i, left * sizeof(Digit));
                digits[j] = Kind::step(digits[j], a, read<__m256i>(others));
            }
        }
        const auto floats = [](__m256i s) { return NarrowF(_mm256_cvtepi32_ps(s)); };
        for (int t = 0; t < T; ++t) sums[t] = joined<D, Kind::BITS, NarrowF>(digits + t * D, floats);
    }
};

// The instructions take one side for unsigned: the weight's sign goes to the activation.
struct Bytes : Eight<Bytes, int8_t, 32> {
    static constexpr int BITS = 7;
    static __m256i weights(const int8_t* w) { return read<__m256i>(w); }
    static __m256i step(__m256i sum, __m256i w, __m256i x) {
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
    static __m256i step(__m256i sum, __m256i w, __m256i x) {
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
    typedef QuarterF Total;
    static constexpr int BITS = 7;
    static constexpr bool OFFSET = false;

    template <int N, int T, int D>
    GRAPHLLM_INLINE static void dots(const int8_t* w, const int8_t* x, const Staged& rows, const int32_t*, int n,
                                     QuarterF (&sums)[T]) {
        int32x4_t digits[T * D];
        for (int32x4_t& d : digits) d = vdupq_n_s32(0);
        const auto at = [&](int j) { return x + j / D * rows.row + j % D * rows.digit; };
        int i = 0;
        for (; i + 16 <= n; i += 16) {
            ahead(w + i, LATER);
            const int8x16_t a = vld1q_s8(w + i);
            for (int j = 0; j < T * D; ++j) digits[j] = vdotq_s32(digits[j], a, vld1q_s8(at(j) + i));
        }
        if (i < n) {
            const int8x16_t a = part(w + i, n - i);
            for (int j = 0; j < T * D; ++j) digits[j] = vdotq_s32(digits[j], a, part(at(j) + i, n - i));
        }
        const auto floats = [](int32x4_t s) { return bits_as<QuarterF>(vcvtq_f32_s32(s)); };
        for (int t = 0; t < T; ++t) sums[t] = joined<D, BITS, QuarterF>(digits + t * D, floats);
    }
    static int8x16_t part(const int8_t* x, int n) {
        int8_t room[16] = {};
        std::memcpy(room, x, n);
        return vld1q_s8(room);
    }
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
