// What tokens weigh in a draw, e^((logit - largest) / temperature), in sums of WEIGHED successive ones: a prefix sum over the
// sums finds the block that a random number falls into. The host's sampler decides what so narrow a sum can tell.
#pragma once

#include "simd.h"

namespace graphllm {

constexpr int WEIGHED = 128;

// A register of f32 or f64, integers of the same width, and what e^x takes: the shift that rounds to a whole number, ln2 in
// two parts, and 1/n! of the polynomial's terms, the last one first.
template <class E>
struct Weight;
template <>
struct Weight<float> {
    typedef NF V;
    typedef NI I;
    typedef NF From;
    static constexpr int MANTISSA = 23, BIAS = 127;
    static constexpr float SHIFT = 0x1.8p23f, LEAST = -87, LN2 = 0x1.63p-1f, LN2_REST = -0x1.bd0106p-13f;
    static constexpr float TERMS[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
};
template <>
struct Weight<double> {
    typedef double V __attribute__((vector_size(WIDE)));
    typedef int64_t I __attribute__((vector_size(WIDE)));
    typedef float From __attribute__((vector_size(WIDE / 2)));
    static constexpr int MANTISSA = 52, BIAS = 1023;
    static constexpr double SHIFT = 0x1.8p52, LEAST = -708, LN2 = 0x1.62e42feep-1, LN2_REST = 0x1.a39ef35793c76p-33;
    static constexpr double TERMS[] = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                                       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1,          1};
};

// e^x for x <= 0: 2^n times Taylor's polynomial on [-ln2/2, ln2/2], whose next term is below the type's rounding. Below
// LEAST it gives 0, so for -infinity.
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

// The sum of those of a block that are below a bound, in E; their weights, where there is room; and whether all are below.
template <class E>
inline double weighed(const float* logits, float below, E largest, E cool, double* weights, bool& all_below) {
    using W = Weight<E>;
    typedef typename W::V V;
    typedef typename W::I I;
    constexpr int WIDTH = WIDE / sizeof(E);
    V total = {};
    I counted = total == total;
    for (int i = 0; i < WEIGHED; i += WIDTH) {
        const V x = __builtin_convertvector(read<typename W::From>(logits + i), V);
        const I counts = x < E(below);
        const V w = (V)((I)exp_falling<E>((x - largest) * cool) & counts);
        if (sizeof(E) == sizeof(double) && weights != nullptr) std::memcpy(weights + i, &w, sizeof w);
        total += w;
        counted &= counts;
    }
    double sum = 0;
    all_below = true;
    for (int l = 0; l < WIDTH; ++l) sum += total[l], all_below &= counted[l] != 0;
    return sum;
}

// sums[b] of each block of ``logits`` [n], of those below ``below``; in f64 where ``exactly``, and then each weight, too,
// where there is room for them. Returns how many are not below; their ids are in ``above``, ascending. Where these are more than
// there is ``room`` for, it goes no further. No logit is NaN or above ``largest``, a finite number.
inline long weigh(const float* logits, long n, float below, float largest, double cool, bool exactly, double* sums,
                  double* weights, int64_t* above, long room) {
    long found = 0;
    for (long first = 0; first < n; first += WEIGHED) {
        const long count = n - first < WEIGHED ? n - first : WEIGHED;
        const float* from = logits + first;
        double* to = weights != nullptr ? weights + first : nullptr;
        float padded[WEIGHED];
        double padded_weights[WEIGHED];
        if (count < WEIGHED) {
            for (int i = 0; i < WEIGHED; ++i) padded[i] = i < count ? from[i] : -INF;
            from = padded;
            if (to != nullptr) to = padded_weights;
        }
        bool all_below;
        *sums++ = exactly ? weighed<double>(from, below, largest, cool, to, all_below)
                          : weighed<float>(from, below, largest, float(cool), nullptr, all_below);
        if (to == padded_weights) std::memcpy(weights + first, to, count * sizeof *to);
        for (long i = 0; !all_below && i < count; ++i) {
            if (from[i] < below) continue;
            if (found < room) above[found] = first + i;
            ++found;
        }
        if (above != nullptr && found > room) break;
    }
    return found;
}

}  // namespace graphllm
