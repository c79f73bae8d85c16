// How a matrix [N,K] is stored, and what a product of few rows needs of it. Every kind has
//
//   row()                             bytes that an activation row takes once it is staged, a multiple of 64
//   stage(x, to)                      bring a row of activations to the form that the weights want
//   few<T>(n0, count, rows, out, ld)  out[t*ld + i] = staged row t . weight row n0 + i, T rows and ``count`` weights' rows
//   settled(x, room)                  a row of activations as the product takes it, f32; ``room`` has row() + 4 * k
//   widened(row, k0, n, to)           elements k0 … k0+n of weight row ``row``, as f32
#pragma once

#include "embed.h"

namespace graphllm {

constexpr int up(int n, int to) { return (n + to - 1) / to * to; }

// Floats: row n at w + n*k.
template <class S>
struct Dense {
    const S* w;
    int k;

    static constexpr long row_bytes(int k) { return 4L * up(k, 2 * LANES); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const {
        float* y = reinterpret_cast<float*>(to);
        std::memmove(y, x, k * sizeof(float));
        std::memset(y + k, 0, (up(k, 2 * LANES) - k) * sizeof(float));
    }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        int i = 0;
        for (; i + 4 <= count; i += 4) some<T, 4>(n0 + i, rows, out + i, ld);
        for (; i < count; ++i) some<T, 1>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }
    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    // R rows at a time are R streams from memory; two sums each keep their additions from waiting for one another.
    template <int T, int R>
    void some(long n, const unsigned char* rows, float* out, int ld) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        VF sums[T][R][2] = {};
        const S* row = w + n * k;
        int i = 0;
        for (; i + 2 * LANES <= k; i += 2 * LANES) {
            for (int r = 0; r < R; ++r) {
                __builtin_prefetch(row + long(r) * k + i + 1024 / sizeof(S));
                const VF a = load(row + long(r) * k + i), b = load(row + long(r) * k + i + LANES);
                for (int t = 0; t < T; ++t) {
                    sums[t][r][0] += a * load(x + t * ldx + i);
                    sums[t][r][1] += b * load(x + t * ldx + i + LANES);
                }
            }
        }
        for (; i < k; i += LANES) {
            const int left = k - i < LANES ? k - i : LANES;
            for (int r = 0; r < R; ++r) {
                const VF a = load_part(row + long(r) * k + i, left);
                for (int t = 0; t < T; ++t) sums[t][r][0] += a * load(x + t * ldx + i);
            }
        }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(sums[t][r][0] + sums[t][r][1]);
    }
};

// bf16: thirty-two at a time are sixteen words, whose halves become f32 by a shift and by a mask. So activations are
// staged as the even ones of thirty-two, then the odd ones.
template <>
struct Dense<bf16> {
    const bf16* w;
    int k;

    static constexpr int PAIRS = 2 * LANES;
    static constexpr long row_bytes(int k) { return 4L * up(k, PAIRS); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const {
        float* y = reinterpret_cast<float*>(to);
        float last[PAIRS] = {};
        for (int i = 0; i < k; i += PAIRS) {
            const float* from = x + i;
            if (k - i < PAIRS) {
                std::memcpy(last, from, (k - i) * sizeof(float));
                from = last;
            }
            for (int j = 0; j < LANES; ++j) {
                y[i + j] = from[2 * j];
                y[i + LANES + j] = from[2 * j + 1];
            }
        }
    }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        int i = 0;
        for (; i + 4 <= count; i += 4) some<T, 4>(n0 + i, rows, out + i, ld);
        for (; i < count; ++i) some<T, 1>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }
    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    template <int T, int R>
    void some(long n, const unsigned char* rows, float* out, int ld) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        VF sums[T][R][2] = {};
        const bf16* row = w + n * k;
        const int whole = k / PAIRS * PAIRS;
        const auto add = [&](int r, int i, VU words) {
            const VF even = bits_as<VF>(words << 16), odd = bits_as<VF>(words & 0xffff0000);
            for (int t = 0; t < T; ++t) {
                sums[t][r][0] += even * load(x + t * ldx + i);
                sums[t][r][1] += odd * load(x + t * ldx + i + LANES);
            }
        };
        for (int i = 0; i < whole; i += PAIRS)
            for (int r = 0; r < R; ++r) {
                __builtin_prefetch(row + long(r) * k + i + 512);
                VU words;
                std::memcpy(&words, row + long(r) * k + i, sizeof words);
                add(r, i, words);
            }
        if (whole < k)
            for (int r = 0; r < R; ++r) {
                VU words = {};
                std::memcpy(&words, row + long(r) * k + whole, (k - whole) * sizeof(bf16));
                add(r, whole, words);
            }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(sums[t][r][0] + sums[t][r][1]);
    }
};

// bf16 weights, and activations that are rounded to bf16 too.
struct Both16 : Dense<bf16> {
    void stage(const float* x, unsigned char* to) const {
        Dense<bf16>::stage(x, to);
        round(reinterpret_cast<float*>(to), reinterpret_cast<float*>(to), int(row() / 4));
    }

    const float* settled(const float* x, unsigned char* room) const {
        float* y = reinterpret_cast<float*>(room);
        round(x, y, k);
        return y;
    }

  private:
    static void round(const float* x, float* y, int n) {
        for (int i = 0; i < n; ++i) {
            bf16 narrow;
            from_float(x[i], narrow);
            y[i] = to_float(narrow);
        }
    }
};

// int8 with a scale for every ``group`` elements. ``FLAT``: groups run over the whole matrix and may straddle rows;
// else each row has ceil(k/group) of its own.
template <class S, bool FLAT>
struct Int8 {
    const int8_t* q;
    const S* scale;
    int k, group;

    static constexpr long row_bytes(int k) { return 4L * up(k, 2 * LANES); }
    long row() const { return row_bytes(k); }

    void stage(const float* x, unsigned char* to) const { Dense<float>{nullptr, k}.stage(x, to); }

    template <int T>
    void few(long n0, int count, const unsigned char* rows, float* out, int ld) const {
        int i = 0;
        if (!FLAT && group % (2 * LANES) == 0) {
            for (; i + 4 <= count; i += 4) grouped<T, 4>(n0 + i, rows, out + i, ld);
            for (; i < count; ++i) grouped<T, 1>(n0 + i, rows, out + i, ld);
        }
        for (; i < count; ++i) pieces<T>(n0 + i, rows, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const {
        for (int i = 0; i < n;) {
            const Piece p = piece(row, k0 + i);
            const int m = p.n < n - i ? p.n : n - i;
            for_lanes(m, to + i, [&](VF v) { return v * p.scale; }, q + row * k + k0 + i);
            i += m;
        }
    }

    const float* settled(const float* x, unsigned char*) const { return x; }

  private:
    struct Piece {
        int n;  // elements of the row that are left under this scale
        float scale;
    };

    Piece piece(long row, int at) const {
        if (FLAT) {
            const long element = row * k + at;
            const int in_group = group - int(element % group);
            return {in_group < k - at ? in_group : k - at, to_float(scale[element / group])};
        }
        const int in_group = group - at % group, groups = (k + group - 1) / group;
        return {in_group < k - at ? in_group : k - at, to_float(scale[row * groups + at / group])};
    }

    // Groups of whole vectors, R rows at a time; the last group of a row may be short.
    template <int T, int R>
    void grouped(long n, const unsigned char* rows, float* out, int ld) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        const int groups = (k + group - 1) / group;
        VF sums[T][R] = {};
        for (int g = 0; g < groups; ++g) {
            const int first = g * group, end = first + group < k ? first + group : k;
            VF in_group[T][R] = {};
            int i = first;
            for (; i + LANES <= end; i += LANES)
                for (int r = 0; r < R; ++r) {
                    const VF a = load(q + (n + r) * k + i);
                    for (int t = 0; t < T; ++t) in_group[t][r] += a * load(x + t * ldx + i);
                }
            if (i < end)
                for (int r = 0; r < R; ++r) {
                    const VF a = load_part(q + (n + r) * k + i, end - i);
                    for (int t = 0; t < T; ++t) in_group[t][r] += a * load(x + t * ldx + i);
                }
            for (int r = 0; r < R; ++r) {
                __builtin_prefetch(q + (n + r) * k + first + 1024);
                const float s = to_float(scale[(n + r) * groups + g]);
                for (int t = 0; t < T; ++t) sums[t][r] += in_group[t][r] * s;
            }
        }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(sums[t][r]);
    }

    template <int T>
    void pieces(long n, const unsigned char* rows, float* out, int ld) const {
        const float* x = reinterpret_cast<const float*>(rows);
        const long ldx = row() / 4;
        const int8_t* row = q + n * k;
        VF sums[T] = {};
        for (int at = 0; at < k;) {
            const Piece p = piece(n, at);
            VF in_group[T] = {};
            const int end = at + p.n;
            for (int i = at; i < end; i += LANES) {
                const int left = end - i < LANES ? end - i : LANES;
                const VF a = left < LANES ? load_part(row + i, left) : load(row + i);
                for (int t = 0; t < T; ++t)
                    in_group[t] += a * (left < LANES ? load_part(x + t * ldx + i, left) : load(x + t * ldx + i));
            }
            for (int t = 0; t < T; ++t) sums[t] += in_group[t] * p.scale;
            at = end;
        }
        for (int t = 0; t < T; ++t) out[t * ld] = sum(sums[t]);
    }
};

template <class S>
using Groups = Int8<S, false>;
template <class S>
using Flat = Int8<S, true>;

}  // namespace graphllm
