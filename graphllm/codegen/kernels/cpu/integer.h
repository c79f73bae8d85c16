// Products of integers: activations are rounded to int8 groups as the weights were, and a group's dot product is exact:
// groups have at most 65,536 elements, whose products' sum fits 32 bits.
#pragma once

#include "weights.h"

namespace graphllm {

typedef float NarrowF __attribute__((vector_size(32)));

// One row of activations as int8: elements, a scale for each group, and what each group's sum of products starts with.
struct Rounded {
    int8_t* q;
    float* scale;
    int32_t* start;
};

// To nearest even by a scale that makes the largest magnitude 127. Compared as integers, NaN is the largest of all, so a
// group with something that is not finite has a scale that is not.
inline float round_group(const float* x, int n, int8_t* q) {
    VI largest = {};
    int i = 0;
    const auto take = [&](VF v) {
        const VI bits = bits_as<VI>(v) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    };
    for (; i + LANES <= n; i += LANES) take(load(x + i));
    if (i < n) take(load_part(x + i, n - i));
    int32_t most = 0;
    for (int l = 0; l < LANES; ++l) most = largest[l] > most ? largest[l] : most;
    const float scale = bits_as<float>(most) / 127.0f;
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const auto rounded = [&](VF v) {
        const VF r = v / scale + ROUND - ROUND;
        return __builtin_convertvector(r == r ? r : all(0), VI);
    };
    for (i = 0; i < n; i += LANES) {
        const int left = n - i < LANES ? n - i : LANES;
        const VI r = rounded(left < LANES ? load_part(x + i, left) : load(x + i));
        for (int l = 0; l < left; ++l) q[i + l] = int8_t(r[l]);
    }
    return scale;
}

#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX512VNNI__) && defined(__AVX512BW__)

// The instruction takes weights for unsigned: they are read as w + 128, and sums start at -128 * sum(x).
struct Dots {
    typedef __m512i Sum;
    typedef VF Total;
    static constexpr bool OFFSET = true;
    static Sum none() { return _mm512_setzero_si512(); }

    // sums[t][r] += w row r . x row t over n elements
    template <int T, int R>
    static void add(const int8_t* w, long ldw, const int8_t* x, long ldx, int n, Sum (&sums)[T][R]) {
        const __m512i flip = _mm512_set1_epi8(-128);
        int i = 0;
        for (; i + 64 <= n; i += 64)
            for (int r = 0; r < R; ++r) {
                const __m512i a = _mm512_xor_si512(_mm512_loadu_si512(w + r * ldw + i), flip);
                for (int t = 0; t < T; ++t)
                    sums[t][r] = _mm512_dpbusd_epi32(sums[t][r], a, _mm512_loadu_si512(x + t * ldx + i));
            }
        if (i < n) {
            const __mmask64 some = ~0ull >> (64 - (n - i));
            for (int r = 0; r < R; ++r) {
                const __m512i a = _mm512_xor_si512(_mm512_maskz_loadu_epi8(some, w + r * ldw + i), flip);
                for (int t = 0; t < T; ++t)
                    sums[t][r] = _mm512_dpbusd_epi32(sums[t][r], a, _mm512_maskz_loadu_epi8(some, x + t * ldx + i));
            }
        }
    }
    static Sum from(int32_t start) { return _mm512_castsi128_si512(_mm_cvtsi32_si128(start)); }
    static VF floats(Sum s) { return bits_as<VF>(_mm512_cvtepi32_ps(s)); }
};

#elif !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__)

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

    template <int T, int R>
    static void add(const int8_t* w, long ldw, const int8_t* x, long ldx, int n, Sum (&sums)[T][R]) {
        int i = 0;
        for (; i + 32 <= n; i += 32)
            for (int r = 0; r < R; ++r) {
                const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w + r * ldw + i));
                for (int t = 0; t < T; ++t)
                    sums[t][r] =
                        step(sums[t][r], a, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + t * ldx + i)));
            }
        if (i < n)
            for (int r = 0; r < R; ++r)
                for (int t = 0; t < T; ++t)
                    sums[t][r] = step(sums[t][r], part(w + r * ldw + i, n - i), part(x + t * ldx + i, n - i));
    }
    static __m256i part(const int8_t* x, int n) {
        alignas(32) int8_t room[32] = {};
        std::memcpy(room, x, n);
        return _mm256_load_si256(reinterpret_cast<const __m256i*>(room));
    }
    static Sum from(int32_t start) { return _mm256_setr_epi32(start, 0, 0, 0, 0, 0, 0, 0); }
    static NarrowF floats(Sum s) { return bits_as<NarrowF>(_mm256_cvtepi32_ps(s)); }
};

#else

struct Dots {
    typedef int32_t Sum;
    typedef float Total;
    static constexpr bool OFFSET = false;
    static Sum none() { return 0; }

    template <int T, int R>
    static void add(const int8_t* w, long ldw, const int8_t* x, long ldx, int n, Sum (&sums)[T][R]) {
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < T; ++t) {
                const int8_t *a = w + r * ldw, *b = x + t * ldx;
                int32_t s = 0;
                for (int i = 0; i < n; ++i) s += int32_t(a[i]) * int32_t(b[i]);
                sums[t][r] += s;
            }
    }
    static Sum from(int32_t start) { return start; }
    static float floats(Sum s) { return float(s); }
};

#endif

inline float sum(float x) { return x; }
inline float sum(NarrowF x) { return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])); }

// int8 weights with a scale for every ``group`` elements of a row, and activations that are rounded in the same way.
template <class S>
struct Dynamic {
    const int8_t* q;
    const S* scale;
    int k, group;

    static constexpr int groups(int k, int group) { return (k + group - 1) / group; }
    static constexpr long row_bytes(int k, int group) { return up(k, 64) + 2L * 4 * up(groups(k, group), LANES); }
    long row() const { return row_bytes(k, group); }

    Rounded rounded(const unsigned char* row) const {
        unsigned char* at = const_cast<unsigned char*>(row);
        float* scales = reinterpret_cast<float*>(at + up(k, 64));
        return {reinterpret_cast<int8_t*>(at), scales, reinterpret_cast<int32_t*>(scales + up(groups(k, group), LANES))};
    }

    void stage(const float* x, unsigned char* to) const {
        const Rounded row = rounded(to);
        for (int g = 0; g < groups(k, group); ++g) {
            const int first = g * group, n = k - first < group ? k - first : group;
            row.scale[g] = round_group(x + first, n, row.q + first);
            int32_t total = 0;
            for (int i = 0; i < n; ++i) total += row.q[first + i];
            row.start[g] = Dots::OFFSET ? -128 * total : 0;
        }
    }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        int i = 0;
        for (; i + 4 <= count; i += 4) some<T, 4>(n0 + i, rows, out + i, ld);
        for (; i < count; ++i) some<T, 1>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const { Groups<S>{q, scale, k, group}.widened(row, k0, n, to); }

    const float* settled(const float* x, unsigned char* room) const {
        stage(x, room);
        const Rounded narrow = rounded(room);
        float* y = reinterpret_cast<float*>(room + row());
        dequantize(narrow.q, narrow.scale, k, group, y);
        return y;
    }

  private:
    template <int T, int R>
    void some(long n, const unsigned char* rows, float* out, int ld) const {
        const long ldx = row();
        const int count = groups(k, group);
        const int8_t* x = rounded(rows).q;
        typename Dots::Total totals[T][R] = {};
        for (int g = 0; g < count; ++g) {
            const int first = g * group, end = first + group < k ? first + group : k;
            for (int r = 0; r < R; ++r) __builtin_prefetch(q + (n + r) * k + first + 1024);
            typename Dots::Sum sums[T][R];
            for (int t = 0; t < T; ++t) {
                const int32_t start = rounded(rows + t * ldx).start[g];
                for (int r = 0; r < R; ++r) sums[t][r] = Dots::from(start);
            }
            Dots::add(q + n * k + first, k, x + first, ldx, end - first, sums);
            for (int r = 0; r < R; ++r) {
                const float s = to_float(scale[(n + r) * count + g]);
                for (int t = 0; t < T; ++t)
                    totals[t][r] += Dots::floats(sums[t][r]) * (s * rounded(rows + t * ldx).scale[g]);
            }
        }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(totals[t][r]);
    }
};

}  // namespace graphllm
