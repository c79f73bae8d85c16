// Products of integers: activations are rounded to int8 groups as the weights were, or cut into digits that say as much
// as an f32 does.
#pragma once

#include <type_traits>

#include "dots.h"

namespace graphllm {

// The largest magnitude. Compared as integers, NaN is larger than all, so a group with something that is not finite has a
// scale that is not.
inline float largest(const float* x, int n) {
    VI most = {};
    for (int i = 0; i < n; i += LANES) {
        const VI bits = as<VI>(n - i < LANES ? load_part(x + i, n - i) : load(x + i)) & 0x7fffffff;
        most = select(bits > most, bits, most);
    }
    int32_t one = 0;
    for (int l = 0; l < LANES; ++l) one = most[l] > one ? most[l] : one;
    return bits_as<float>(one);
}

// To nearest even, |x| < 2^22; NaN becomes 0.
inline VI rounded(const VF& x) {
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: the fraction is rounded away
    const VF r = x + ROUND - ROUND;
    return to<VI>(select(r == r, r, all(0.0f)));
}

// The first n lanes, each of which fits a digit.
template <class Digit>
inline void put(const VI& x, int n, Digit* to) {
    typedef Digit Narrow __attribute__((vector_size(LANE * sizeof(Digit))));
    Digit narrow[LANES];
    for (int i = 0; i < PARTS; ++i) {
        const Narrow part = __builtin_convertvector(x.part[i], Narrow);
        std::memcpy(narrow + i * LANE, &part, sizeof part);
    }
    if (n == LANES)
        std::memcpy(to, narrow, sizeof narrow);
    else
        std::memcpy(to, narrow, n * sizeof(Digit));
}

// The sum of n digits; a stretch of them is most often asked for.
template <class Digit>
inline int32_t total_of(const Digit* x, int n) {
    int32_t total = 0;
    if (n == STRETCH)
        for (int i = 0; i < STRETCH; ++i) total += x[i];
    else
        for (int i = 0; i < n; ++i) total += x[i];
    return total;
}

// A group of activations as integers: all of it in one digit, rounded to int8, or in several of base 2^BITS. Returns the
// scale of the last digit.
template <int DIGITS, int BITS, class Digit>
inline float round_group(const float* x, int n, Digit* q, long ldq) {
    constexpr int HALF = 1 << (BITS - 1), FIRST = HALF < 128 ? 127 : HALF - 1;  // the largest first digit
    constexpr float MOST = DIGITS == 1 ? 127 : float(FIRST) * (1 << BITS * (DIGITS - 1));
    static_assert(DIGITS == 1 || MOST < 1 << 22, "as many as are rounded rightly");
    const float scale = largest(x, n) / MOST;
    for (int i = 0; i < n; i += LANES) {
        const int left = n - i < LANES ? n - i : LANES;
        VI whole = rounded((left < LANES ? load_part(x + i, left) : load(x + i)) / scale);
        for (int d = DIGITS - 1; d >= 0; --d) {
            const VI digit = d ? ((whole + HALF) & (2 * HALF - 1)) - HALF : whole;
            put(digit, left, q + d * ldq + i);
            whole = (whole - digit) >> BITS;
        }
    }
    return scale;
}
template <class Digit>
inline float round_group(const float* x, int n, Digit* q) {
    return round_group<1, 8>(x, n, q, 0);
}

// int8 weights with a scale for every GROUP elements of a row, and activations in DIGITS digits.
template <class S, class Dots, int DIGITS, int GROUP>
struct Integer {
    typedef typename Dots::Digit Digit;
    const int8_t* q;
    const S* scale;
    int k;

    static constexpr int ELEMENT = 1, SPLIT = 4;
    const void* at(long row, int k0) const { return q + row * k + k0; }
    const void* scale_at(long row, int k0) const { return scale + row * groups(k) + k0 / GROUP; }
    bool splits() const { return k % SPLIT == 0 && (GROUP % SPLIT == 0 || GROUP >= k); }
    int scaled(int k0) const { return GROUP - k0 % GROUP < k - k0 ? GROUP - k0 % GROUP : k - k0; }
    float scale_of(long row, int k0) const { return to_float(scale[row * groups(k) + k0 / GROUP]); }
    static NF widened(NI word, int e, NF scale) { return __builtin_convertvector(word << (24 - 8 * e) >> 24, NF) * scale; }
    static constexpr int groups(int k) { return (k + GROUP - 1) / GROUP; }
    static constexpr int size(int k) { return GROUP < k ? GROUP : k; }  // of the first group
    static constexpr int room(int k) { return DIGITS * up(groups(k) * size(k), 64); }  // for the digits of a row
    static constexpr int stretches(int k) { return (size(k) + STRETCH - 1) / STRETCH; }  // of a group
    static constexpr long row_bytes(int k) {
        const int starts = Dots::OFFSET ? groups(k) * stretches(k) : 0;
        return long(sizeof(Digit)) * room(k) + 4L * (up(groups(k), LANES) + up(starts, LANES));
    }
    long row() const { return row_bytes(k); }

    // A staged row: digits, those of a group side by side; the scale of each group; and what the sums of each stretch start
    // with, where they start with something.
    static Digit* digits(const unsigned char* row) { return reinterpret_cast<Digit*>(const_cast<unsigned char*>(row)); }
    float* scales(const unsigned char* row) const { return reinterpret_cast<float*>(digits(row) + room(k)); }
    int32_t* starts(const unsigned char* row) const {
        return reinterpret_cast<int32_t*>(scales(row) + up(groups(k), LANES));
    }

    void stage(const float* x, unsigned char* to) const {
        for (int g = 0; g < groups(k); ++g) {
            const int first = g * GROUP, n = k - first < GROUP ? k - first : GROUP;
            Digit* at = digits(to) + DIGITS * first;
            scales(to)[g] = round_group<DIGITS, Dots::BITS>(x + first, n, at, size(k));
            if constexpr (Dots::OFFSET)
                for (int c = 0; c < stretches(k); ++c) {
                    const int from = c * STRETCH, end = n - from < STRETCH ? n : from + STRETCH;
                    int32_t total = 0;
                    for (int d = 0; d < DIGITS; ++d)
                        total = total * (1 << Dots::BITS) + total_of(at + d * size(k) + from, end - from);
                    starts(to)[g * stretches(k) + c] = Dots::start(total);
                }
        }
    }

    void widened(long row, int k0, int n, float* to) const { Int8<S, false>{q, scale, k, GROUP}.widened(row, k0, n, to); }

    const float* settled(const float* x, unsigned char* room) const {
        if (DIGITS > 1) return x;
        stage(x, room);
        float* y = reinterpret_cast<float*>(room + row());
        for (int first = 0; first < k; first += GROUP) {
            const float s = scales(room)[first / GROUP];
            for (int i = first; i < k && i < first + GROUP; ++i) y[i] = float(digits(room)[i]) * s;
        }
        return y;
    }

#if defined(GRAPHLLM_PLAIN_DOTS)
    template <int T, int R>
    void few(const Streams<R>& streams, int many, const unsigned char* rows, int ld) const {
        for (int r = 0; r < R; ++r)
            for (int i = 0; i < many; ++i) one<T>(streams.row[r] + i, rows, streams.out[r] + i, ld);
    }

  private:
    // Sums of sixteen groups, then their scales.
    template <int T>
    void one(long n, const unsigned char* rows, float* out, int ld) const {
        const int count = groups(k);
        const long row_digits = row() / long(sizeof(Digit));
        const int8_t* w = q + n * k;
        const S* w_scale = scale + n * count;
        VF totals[T] = {};
        for (int from = 0; from < count; from += LANES) {
            const int some = count - from < LANES ? count - from : LANES;
            int32_t sums[T * DIGITS][LANES] = {};
            for (int g = 0; g < some; ++g) {
                const int first = (from + g) * GROUP, left = k - first < GROUP ? k - first : GROUP;
                const Digit* x = digits(rows) + DIGITS * first;
                int32_t dots[T * DIGITS];
                if (left == GROUP)
                    Dots::template dots<GROUP, T, DIGITS>(w + first, x, row_digits, GROUP, GROUP, dots);
                else
                    Dots::template dots<0, T, DIGITS>(w + first, x, row_digits, size(k), left, dots);
                for (int j = 0; j < T * DIGITS; ++j) sums[j][g] = dots[j];
            }
            const VF s = some == LANES ? load(w_scale + from) : load_part(w_scale + from, some);
            for (int t = 0; t < T; ++t) {
                VF sum = {};
                for (int d = 0; d < DIGITS; ++d)
                    sum = sum * float(1 << Dots::BITS) + to<VF>(load_words<int32_t>(sums[t * DIGITS + d]));
                const float* x_scale = scales(rows + t * row()) + from;
                totals[t] += sum * (s * (some == LANES ? load(x_scale) : load_part(x_scale, some)));
            }
        }
        for (int t = 0; t < T; ++t) out[t * ld] = sum(totals[t]);
    }
#else
    template <int T, int R>
    void few(const Streams<R>& streams, int many, const unsigned char* rows, int ld) const {
        const int count = groups(k), whole = k / GROUP, of_group = stretches(k);
        const Digit* x = digits(rows);
        const float* x_scale = scales(rows);
        const int32_t* start = starts(rows);
        const Staged apart{row() / long(sizeof(Digit)), size(k), row() / 4};
        for (int i = 0; i < many; ++i) {
            typename Dots::Total totals[R][T] = {};
            for (int from = 0; from < count; from += LANES) {
                const int some = count - from < LANES ? count - from : LANES;
                float both[R][T][LANES];  // scales: of weights times those of activations
                for (int r = 0; r < R; ++r) {
                    const S* w_scale = scale + (streams.row[r] + i) * count + from;
                    const VF s = some == LANES ? load(w_scale) : load_part(w_scale, some);
                    for (int t = 0; t < T; ++t) store(both[r][t], s * load(x_scale + t * apart.start + from));
                }
                const auto products = [&](auto known, int g, int n) {  // of a group of n; known: n or 0
                    const int first = (from + g) * GROUP;
                    const int32_t* begin = start + (from + g) * of_group;
                    typename Dots::Total sums[R][T];
                    for (int r = 0; r < R; ++r) {
                        const int8_t* w = q + (streams.row[r] + i) * k + first;
                        Dots::template dots<known.value, T, DIGITS>(w, x + DIGITS * first, apart, begin, n, sums[r]);
                    }
                    for (int r = 0; r < R; ++r)
                        for (int t = 0; t < T; ++t) totals[r][t] += sums[r][t] * both[r][t][g];
                };
                int g = 0;
                for (; g < some && from + g < whole; ++g) products(std::integral_constant<int, GROUP>{}, g, GROUP);
                if (g < some) products(std::integral_constant<int, 0>{}, g, k - (from + g) * GROUP);
            }
            for (int r = 0; r < R; ++r)
                for (int t = 0; t < T; ++t) streams.out[r][t * ld + i] = sum(totals[r][t]);
        }
    }
#endif
};

// Activations that the IR says are rounded to int8 groups.
template <class S, int GROUP>
using Dynamic = Integer<S, Bytes, 1, GROUP>;

// Activations as they are: twenty-two bits of each.
template <class S, int GROUP>
using Groups = Integer<S, Fine, Fine::BITS == 7 ? 3 : 2, GROUP>;

}  // namespace graphllm
