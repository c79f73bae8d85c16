// Products of integers: activations are rounded to int8 groups as the weights were, and a group's dot product is exact:
// groups have at most 65,536 elements, whose products' sum fits 32 bits.
#pragma once

#include "weights.h"

namespace graphllm {

typedef float NarrowF __attribute__((vector_size(32)));
typedef float QuarterF __attribute__((vector_size(16)));

// The largest magnitude. Compared as integers, NaN is larger than all, so a group with something that is not finite has a
// scale that is not.
inline float largest(const float* x, int n) {
    VI most = {};
    for (int i = 0; i < n; i += LANES) {
        const VI bits = bits_as<VI>(n - i < LANES ? load_part(x + i, n - i) : load(x + i)) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    int32_t one = 0;
    for (int l = 0; l < LANES; ++l) one = most[l] > one ? most[l] : one;
    return bits_as<float>(one);
}

// To nearest even, |x| < 2^22; NaN becomes 0.
inline VI rounded(VF x) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const VF r = x + ROUND - ROUND;
    return __builtin_convertvector(r == r ? r : all(0), VI);
}

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512VNNI__) && defined(__AVX512BW__)

#define GRAPHLLM_DOTS 1

// The instruction takes weights for unsigned: they are read as w + 128, and sums start at -128 * sum(x).
struct Dots {
    typedef __m512i Sum;
    typedef VF Total;
    static constexpr bool OFFSET = true;
    static Sum none() { return _mm512_setzero_si512(); }

    // sums[t*D + d] += n elements of w . digit d of row t
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
    static Sum from(int32_t start) { return _mm512_castsi128_si512(_mm_cvtsi32_si128(start)); }
    static VF floats(Sum s) { return bits_as<VF>(_mm512_cvtepi32_ps(s)); }
};

#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)

#define GRAPHLLM_DOTS 1

// The instructions take one side for unsigned: the weight's sign goes to the activation.
struct Dots {
    typedef __m256i Sum;
    typedef NarrowF Total;
    static constexpr bool OFFSET = false;
    static Sum none() { return _mm256_setzero_si256(); }

    static Sum step(Sum sum, __m256i w, __m256i x) {
        const __m256i a = _mm256_abs_epi8(w), b = _mm256_sign_epi8(x, w);
#if defined(__AVXVNNI__)
        return _mm256_dpbusd_avx_epi32(sum, a, b);
#else
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
#endif
    }

    template <int T, int D>
    static void add(const int8_t* w, const int8_t* x, long row, long digit, int n, Sum (&sums)[T * D]) {
        int i = 0;
        for (; i + 32 <= n; i += 32) {
            __builtin_prefetch(w + i + AHEAD);
            const __m256i a = whole(w + i);
            for (int j = 0; j < T * D; ++j) sums[j] = step(sums[j], a, whole(x + j / D * row + j % D * digit + i));
        }
        if (i < n) {
            const __m256i a = part(w + i, n - i);
            for (int j = 0; j < T * D; ++j) sums[j] = step(sums[j], a, part(x + j / D * row + j % D * digit + i, n - i));
        }
    }
    static __m256i whole(const int8_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
    static __m256i part(const int8_t* x, int n) {
        alignas(32) int8_t room[32] = {};
        std::memcpy(room, x, n);
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(room));
    }
    static Sum from(int32_t start) { return _mm256_setr_epi32(start, 0, 0, 0, 0, 0, 0, 0); }
    static NarrowF floats(Sum s) { return bits_as<NarrowF>(_mm256_cvtepi32_ps(s)); }
};

#elif !defined(GRAPHLLM_PORTABLE) && defined(__ARM_FEATURE_DOTPROD)

#define GRAPHLLM_DOTS 1

struct Dots {
    typedef int32x4_t Sum;
    typedef QuarterF Total;
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

#else

struct Dots {
    typedef int32_t Sum;
    typedef float Total;
    static constexpr bool OFFSET = false;
    static Sum none() { return 0; }

    template <int T, int D>
    static void add(const int8_t* w, const int8_t* x, long row, long digit, int n, Sum (&sums)[T * D]) {
        for (int j = 0; j < T * D; ++j) {
            const int8_t* at = x + j / D * row + j % D * digit;
            int32_t s = 0;
            for (int i = 0; i < n; ++i) s += int32_t(w[i]) * int32_t(at[i]);
            sums[j] += s;
        }
    }
    static Sum from(int32_t start) { return start; }
    static float floats(Sum s) { return float(s); }
};

#endif

inline float sum(NarrowF x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

// A group of activations as int8: all of it in one digit, or in three of base 128, which say as much as an f32 does.
// Returns the scale of the last digit.
template <int DIGITS>
inline float round_group(const float* x, int n, int8_t* q, long ldq) {
    const float scale = largest(x, n) / (DIGITS == 1 ? 127.0f : 2080768.0f);  // 127 * 2^14: a first digit within +-127
    for (int i = 0; i < n; i += LANES) {
        const int left = n - i < LANES ? n - i : LANES;
        VI whole = rounded((left < LANES ? load_part(x + i, left) : load(x + i)) / scale);
        for (int d = DIGITS - 1; d >= 0; --d) {
            const VI digit = d ? ((whole + 64) & 127) - 64 : whole;
            for (int l = 0; l < left; ++l) q[d * ldq + i + l] = int8_t(digit[l]);
            whole = (whole - digit) >> 7;
        }
    }
    return scale;
}

// int8 weights with a scale for every ``group`` elements of a row. Activations are rounded to int8 groups with one digit
// (``Dynamic``); with three they are as good as f32, and products with them are still those of integers.
template <class S, int DIGITS>
struct Integer {
    const int8_t* q;
    const S* scale;
    int k, group;

    static constexpr int groups(int k, int group) { return (k + group - 1) / group; }
    static constexpr long row_bytes(int k, int group) {
        return long(DIGITS) * up(k, 64) + 4L * (1 + DIGITS) * up(groups(k, group), LANES);
    }
    long row() const { return row_bytes(k, group); }
    long digit() const { return up(k, 64); }  // from a digit of a row to its next

    // A staged row: digits, the scale of each group, and for each digit what each group's sum starts with.
    static int8_t* digits(const unsigned char* row) { return reinterpret_cast<int8_t*>(const_cast<unsigned char*>(row)); }
    float* scales(const unsigned char* row) const { return reinterpret_cast<float*>(digits(row) + DIGITS * digit()); }
    int32_t* starts(const unsigned char* row, int d) const {
        return reinterpret_cast<int32_t*>(scales(row)) + (1 + d) * up(groups(k, group), LANES);
    }

    void stage(const float* x, unsigned char* to) const {
        for (int g = 0; g < groups(k, group); ++g) {
            const int first = g * group, n = k - first < group ? k - first : group;
            scales(to)[g] = round_group<DIGITS>(x + first, n, digits(to) + first, digit());
            for (int d = 0; d < DIGITS; ++d) {
                int32_t total = 0;
                for (int i = 0; i < n; ++i) total += digits(to)[d * digit() + first + i];
                starts(to, d)[g] = Dots::OFFSET ? -128 * total : 0;
            }
        }
    }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        for (int i = 0; i < count; ++i) one<T>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const { Int8<S, false>{q, scale, k, group}.widened(row, k0, n, to); }

    const float* settled(const float* x, unsigned char* room) const {
        if (DIGITS > 1) return x;
        stage(x, room);
        float* y = reinterpret_cast<float*>(room + row());
        dequantize(digits(room), scales(room), k, group, y);
        return y;
    }

  private:
    template <int T>
    void one(long n, const unsigned char* rows, float* out, int ld) const {
        const int count = groups(k, group);
        const int8_t *w = q + n * k, *x = digits(rows);
        const S* w_scale = scale + n * count;
        typename Dots::Total totals[T] = {};
        for (int g = 0; g < count; ++g) {
            const int first = g * group;
            typename Dots::Sum sums[T * DIGITS];
            for (int t = 0; t < T; ++t)
                for (int d = 0; d < DIGITS; ++d) sums[t * DIGITS + d] = Dots::from(starts(rows + t * row(), d)[g]);
            Dots::add<T, DIGITS>(w + first, x + first, row(), digit(), k - first < group ? k - first : group, sums);
            const float s = to_float(w_scale[g]);
            for (int t = 0; t < T; ++t) {
                typename Dots::Total sum = Dots::floats(sums[t * DIGITS]);
                for (int d = 1; d < DIGITS; ++d) sum = sum * 128.0f + Dots::floats(sums[t * DIGITS + d]);
                totals[t] += sum * (s * scales(rows + t * row())[g]);
            }
        }
        for (int t = 0; t < T; ++t) out[t * ld] = sum_of(totals[t]);
    }
    static float sum_of(VF x) { return graphllm::sum(x); }
    static float sum_of(NarrowF x) { return graphllm::sum(x); }
    static float sum_of(QuarterF x) { return (x[0] + x[2]) + (x[1] + x[3]); }
    static float sum_of(float x) { return x; }
};

template <class S>
using Dynamic = Integer<S, 1>;

#if defined(GRAPHLLM_DOTS)
template <class S>
struct Groups : Integer<S, 3> {
    static constexpr long row_bytes(int k) { return 3L * up(k, 64) + 4L * 4 * up(k, LANES); }  // whatever groups are
};
#else
template <class S>
using Groups = Int8<S, false>;
#endif

}  // namespace graphllm
