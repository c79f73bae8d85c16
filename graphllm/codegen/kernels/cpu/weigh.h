// What tokens weigh in a draw, e^((logit - largest) / temperature), in sums of WEIGHED successive ones: a prefix sum over the
// sums finds the block that a random number falls into. And a histogram of the weights. The host's sampler decides what so
// narrow a sum can tell.
#pragma once

#include "simd.h"

namespace graphllm {

constexpr int WEIGHED = 128;
constexpr int BINS = 4096, BINS_PER_NAT = 128;  // of the histogram, by the weights' logarithms

// A register of f32 or f64, integers of the same width, and what e^x takes: the shift that rounds to a whole number, ln2 in
// two parts, and the polynomial's factors, the last one first: in f32 Taylor's; in f64 those that are
// right for (e^x - 1) / x at the eight Chebyshev points of [-ln2/2, ln2/2], and for e^x between them to 2.2e-12.
template <class E>
struct Weight;
template <>
struct Weight<float> {
    typedef NF V;
    typedef NI I;
    static V at(const float* x) { return read<V>(x); }
    static constexpr int MANTISSA = 23, BIAS = 127;
    static constexpr float SHIFT = 0x1.8p23f, LEAST = -87, LN2 = 0x1.63p-1f, LN2_REST = -0x1.bd0106p-13f;
    static constexpr float TERMS[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
};
template <>
struct Weight<double> {
    typedef double V __attribute__((vector_size(WIDE)));
    typedef int64_t I __attribute__((vector_size(WIDE)));
    static V at(const float* x) {
#if !defined(GRAPHLLM_PORTABLE) && defined(__AVX2__) && !defined(__AVX512F__)  // one instruction, of which gcc makes five
        return V(_mm256_cvtps_pd(read<__m128>(x)));
#else
        typedef float Half __attribute__((vector_size(WIDE / 2)));
        return __builtin_convertvector(read<Half>(x), V);
#endif
    }
    static constexpr int MANTISSA = 52, BIAS = 1023;
    static constexpr double SHIFT = 0x1.8p52, LEAST = -708, LN2 = 0x1.62e42feep-1, LN2_REST = 0x1.a39ef35793c76p-33;
    static constexpr double TERMS[] = {0x1.a137426f16cfdp-16, 0x1.a17ea987d8dd3p-13, 0x1.6c166b8f94446p-10,
                                       0x1.1110a5b46901ap-7,  0x1.55555565dead9p-5,  0x1.5555557eb07e9p-3,
                                       0x1.fffffffffe028p-2,  0x1.fffffffff60b8p-1,  1};
};

// e^x for x <= 0: 2^n times a polynomial on [-ln2/2, ln2/2]. Below LEAST it gives 0, so for -infinity.
template <class E>
GRAPHLLM_INLINE typename Weight<E>::V exp_falling(const typename Weight<E>::V& x) {
    using W = Weight<E>;
    typedef typename W::V V;
    typedef typename W::I I;
    const V n_shifted = x * E(1.44269504088896340736) + W::SHIFT;  // the fraction is rounded away
    const V n = n_shifted - W::SHIFT;
    const V r = (x - n * W::LN2) - n * W::LN2_REST;  // n * LN2 is exact
    V p = r * W::TERMS[0] + W::TERMS[1];
    for (unsigned i = 2; i < sizeof W::TERMS / sizeof(E); ++i) p = p * r + W::TERMS[i];
    const I power = ((I)n_shifted + W::BIAS) << W::MANTISSA;  // of n's word the low bits stay
    return (V)((I)(p * (V)power) & (I)(x >= W::LEAST));
}

// What weighs below ``low``, what from ``high`` on, and whether nothing lies between.
struct Sides {
    double below, beyond;
    bool all;
};

// Of a block, in E; ``both``: beyond, too.
template <class E>
inline Sides weighed(const float* logits, float low, float high, bool both, E largest, E cool) {
    using W = Weight<E>;
    typedef typename W::V V;
    typedef typename W::I I;
    constexpr int WIDTH = WIDE / sizeof(E);
    V below = {}, beyond = {};
    I apart = below == below;
    for (int i = 0; i < WEIGHED; i += WIDTH) {
        const V x = W::at(logits + i);
        const I weight = (I)exp_falling<E>((x - largest) * cool);
        I counts = x < E(low);
        below += (V)(weight & counts);
        if (both) {
            const I far = x >= E(high);
            beyond += (V)(weight & far);
            counts |= far;
        }
        apart &= counts;
    }
    Sides sides{0, 0, true};
    for (int l = 0; l < WIDTH; ++l) sides.below += below[l], sides.beyond += beyond[l], sides.all &= apart[l] != 0;
    return sides;
}

// Ids of those of a block in [low, high), ascending. No machine could foresee which they are: no branch for each.
inline int ids_between(const float* logits, long first, int count, float low, float high, int64_t* ids) {
    constexpr int TOGETHER = 8;
    uint8_t within[WEIGHED];
    for (int i = 0; i < WEIGHED; ++i) within[i] = (logits[i] >= low) & (logits[i] < high) & (i < count);
    int found = 0;
    for (int i = 0; i < WEIGHED; i += TOGETHER) {
        if (read<uint64_t>(within + i) == 0) continue;
        for (int j = i; j < i + TOGETHER; ++j) {
            ids[found] = first + j;
            found += within[j];
        }
    }
    return found;
}

// below[b]: of those in block b of ``logits`` [n] that are below ``low``, the sum, in f64 where ``exactly``; beyond[b]: of those
// that are ``high`` or more, where there is room for it. Returns how many lie between; their ids are in ``between``, ascending.
// Where these are more than there is ``room`` for, it goes no further. No logit is NaN or above ``largest``, a finite number.
inline long weigh(const float* logits, long n, float low, float high, float largest, double cool, bool exactly,
                  double* below, double* beyond, int64_t* between, long room) {
    long found = 0;
    for (long first = 0; first < n; first += WEIGHED) {
        const long count = n - first < WEIGHED ? n - first : WEIGHED;
        const float* from = logits + first;
        float padded[WEIGHED];
        if (count < WEIGHED) {
            for (int i = 0; i < WEIGHED; ++i) padded[i] = i < count ? from[i] : -INF;
            from = padded;
        }
        const bool both = beyond != nullptr;
        const Sides sides = exactly ? weighed<double>(from, low, high, both, largest, cool)
                                    : weighed<float>(from, low, high, both, largest, float(cool));
        *below++ = sides.below;
        if (both) *beyond++ = sides.beyond;
        if (sides.all) continue;
        int64_t ids[WEIGHED];
        const int some = ids_between(from, first, int(count), low, high, ids);
        if (between != nullptr) {
            if (found + some > room) return found + some;
            std::memcpy(between + found, ids, some * sizeof *ids);
        }
        found += some;
    }
    return found;
}

// counts[i]: how many of ``logits`` [n] weigh from e^-((i + 1) / BINS_PER_NAT) to e^-(i / BINS_PER_NAT), near an edge perhaps one
// of its neighbours; the last one is of all that weigh less.
inline void histogram(const float* logits, long n, float largest, double cool, int32_t* counts) {
    int32_t own[2][BINS] = {};  // neighbours are often alike, and a count would wait for the one before
    const float finely = float(cool) * BINS_PER_NAT;
    long i = 0;
    for (; i + LANES <= n; i += LANES) {
        const VF x = (all(largest) - load(logits + i)) * finely;
        int32_t bin[LANES];
        store(bin, to<VI>(select(x < float(BINS - 1), x, all(float(BINS - 1)))));
        for (int l = 0; l < LANES; ++l) ++own[l % 2][bin[l]];
    }
    for (; i < n; ++i) {
        const float x = (largest - logits[i]) * finely;
        ++own[0][x < BINS - 1 ? int(x) : BINS - 1];
    }
    for (int b = 0; b < BINS; ++b) counts[b] = own[0][b] + own[1][b];
}

}  // namespace graphllm
