// How a matrix [N,K] is stored, and what a product needs of it: sixteen elements of a row as f32, or sums of groups.
#pragma once

#include "embed.h"

namespace graphllm {

// Floats: row n at w + n*k.
template <class S>
struct Dense {
    const S* w;
    int k;

    // out[t*ld + i] = row t of x . weight row n0 + i, for T rows and ``count`` weights' rows.
    template <int T>
    void few(long n0, int count, const float* x, int ldx, float* out, int ld) const {
        int i = 0;
        for (; i + 4 <= count; i += 4) rows<T, 4>(n0 + i, x, ldx, out + i, ld);
        for (; i < count; ++i) rows<T, 1>(n0 + i, x, ldx, out + i, ld);
    }

    // Elements k0 … k0+n of row ``row``, as f32.
    void widened(long row, int k0, int n, float* to) const { widen(w + row * k + k0, n, to); }

  private:
    // R rows at a time are R streams from memory; two sums each keep their additions from waiting for one another.
    template <int T, int R>
    void rows(long n, const float* x, int ldx, float* out, int ld) const {
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
            const int n_left = k - i < LANES ? k - i : LANES;
            for (int r = 0; r < R; ++r) {
                const VF a = load_part(row + long(r) * k + i, n_left);
                for (int t = 0; t < T; ++t) sums[t][r][0] += a * load_part(x + t * ldx + i, n_left);
            }
        }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(sums[t][r][0] + sums[t][r][1]);
    }
};

// int8 with a scale for every ``group`` elements. ``FLAT``: groups run over the whole matrix and may straddle rows;
// else each row has ceil(k/group) of its own.
template <class S, bool FLAT>
struct Int8 {
    const int8_t* q;
    const S* scale;
    int k, group;

    template <int T>
    void few(long n0, int count, const float* x, int ldx, float* out, int ld) const {
        int i = 0;
        for (; i + 2 <= count; i += 2) rows<T, 2>(n0 + i, x, ldx, out + i, ld);
        for (; i < count; ++i) rows<T, 1>(n0 + i, x, ldx, out + i, ld);
    }

    void widened(long row, int k0, int n, float* to) const {
        for (int i = 0; i < n;) {
            const Piece p = piece(row, k0 + i);
            const int m = p.n < n - i ? p.n : n - i;
            for_lanes(m, to + i, [&](VF v) { return v * p.scale; }, q + row * k + k0 + i);
            i += m;
        }
    }

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

    template <int T, int R>
    void rows(long n, const float* x, int ldx, float* out, int ld) const {
        VF sums[T][R] = {};
        for (int r = 0; r < R; ++r) {
            const int8_t* row = q + (n + r) * k;
            for (int at = 0; at < k;) {
                const Piece p = piece(n + r, at);
                VF in_group[T][2] = {};
                int i = at;
                const int end = at + p.n;
                for (; i + 2 * LANES <= end; i += 2 * LANES) {
                    const VF a = load(row + i), b = load(row + i + LANES);
                    for (int t = 0; t < T; ++t) {
                        in_group[t][0] += a * load(x + t * ldx + i);
                        in_group[t][1] += b * load(x + t * ldx + i + LANES);
                    }
                }
                for (; i < end; i += LANES) {
                    const int n_left = end - i < LANES ? end - i : LANES;
                    const VF a = load_part(row + i, n_left);
                    for (int t = 0; t < T; ++t) in_group[t][0] += a * load_part(x + t * ldx + i, n_left);
                }
                for (int t = 0; t < T; ++t) sums[t][r] += (in_group[t][0] + in_group[t][1]) * p.scale;
                at = end;
            }
        }
        for (int t = 0; t < T; ++t)
            for (int r = 0; r < R; ++r) out[t * ld + r] = sum(sums[t][r]);
    }
};

template <class S>
using Groups = Int8<S, false>;
template <class S>
using Flat = Int8<S, true>;

}  // namespace graphllm
